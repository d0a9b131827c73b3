"""Running functions in parallel, and cancelling all of them when one fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, SimpleQueue
from threading import Event
from typing import TypeVar

from llmstack.interrupts import postponed_signals
from llmstack.net import Cancelled

T = TypeVar("T")
R = TypeVar("R")

# Seconds between two checks for signals while the main thread waits.
_SIGNAL_CHECK = 0.5


def unless_cancelled(count_bytes: Callable[[int], None], cancel: Event) -> Callable[[int], None]:
    """Return a `count_bytes` that raises Cancelled once `cancel` is set."""

    def counted(size: int) -> None:
        if cancel.is_set():
            raise Cancelled("cancelled")
        count_bytes(size)

    return counted


def _wait(ended: SimpleQueue[Future[R]]) -> Future[R]:
    """Return the next future that has ended.

    A signal that comes just before get() blocks does not end it: its handler runs at the next turn of the loop.
    """
    while True:
        with contextlib.suppress(Empty):
            return ended.get(timeout=_SIGNAL_CHECK)


def run_all(do: Callable[[T], R], items: Iterable[T], jobs: int, cancel: Event) -> list[R]:
    """Return the results of `do` for all items, in order, with `jobs` threads.

    If one call fails or the user interrupts, set `cancel` so that the others end, and raise the first failure.
    """
    # A SimpleQueue, because a signal handler may interrupt the wait: see postponed_signals().
    ended: SimpleQueue[Future[R]] = SimpleQueue()
    futures: list[Future[R]] = []
    with ThreadPoolExecutor(jobs, "read") as workers:
        try:
            with postponed_signals():
                for item in items:
                    futures.append(workers.submit(do, item))
                    futures[-1].add_done_callback(ended.put)
            if not any(_wait(ended).exception() for _ in futures):
                return [future.result() for future in futures]
        except BaseException:
            cancel.set()
            workers.shutdown(wait=True, cancel_futures=True)
            raise
        cancel.set()
        workers.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])
