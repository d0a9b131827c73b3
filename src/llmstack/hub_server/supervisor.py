"""The processes of a hub: one that refreshes the index, and workers that serve; each is replaced when it ends.

The process that the user started supervises them. It has no threads, so that it can fork at any time: the others share
its memory, its socket and what it has read from files, and no command line has a secret.

    supervisor ── control ──> refresher, workers    passes the links on; when it ends, they end
    refresher  <─── link ───> each worker           changes of the index in both directions, facts to the worker
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from llmstack.errors import EXIT_BUG, LlmstackError, UnavailableError
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.index_change import Change
from llmstack.hub_server.process_link import ProcessLink, pass_link, passed_links
from llmstack.hub_server.refresher import LONGEST_START, Refresher
from llmstack.hub_server.repos import Repo
from llmstack.reporting import write_traceback

_FORK = multiprocessing.get_context("fork")
_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})
_REFRESHER = -1
# More are useful only for a network of more than 40 Gbit/s.
_MAX_DEFAULT = 8
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# Seconds between two checks for signals; until a process is replaced that ended at once; and after the grace period.
_SIGNAL_CHECK = 0.5
_AT_ONCE = 1.0
_LEEWAY = 5.0


def default_workers() -> int:
    """Return the number of cores that this process may use, at most _MAX_DEFAULT."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        # The limit of a container: microseconds in a period, or `max`.
        limit, period = map(int, _CPU_LIMIT.read_text().split())
        cores = min(cores, math.ceil(limit / period))
    return max(1, min(cores, _MAX_DEFAULT))


class Supervisor:
    """Runs the processes until a signal comes. `serve` runs in each worker; `note` gets messages for people."""

    def __init__(
        self, hub: Hub, refresher: Refresher, serve: Callable[[], None], note: Callable[[str], None], grace: float
    ) -> None:
        self._hub = hub
        self._refresher = refresher
        self._serve = serve
        self._note = note
        self._grace = grace
        self._processes: dict[int, tuple[ForkProcess, float]] = {}
        self._controls: dict[int, socket.socket] = {}
        self._report, self._reported = _FORK.Pipe(duplex=False)

    def start(self) -> None:
        """Start all processes; raises the error of the first refresh if the user must fix it, UnavailableError."""
        # What exists now stays shared: collecting garbage would write to it.
        gc.collect()
        gc.freeze()
        try:
            self._start(_REFRESHER)
            if self._report.poll(LONGEST_START + _LEEWAY) and (error := self._report.recv()):
                raise error
            for worker in range(self._hub.metrics.workers):
                self._start(worker)
        except OSError as error:
            raise UnavailableError(f"cannot start a process: {error.strerror}") from error

    def watch(self) -> None:
        """Replace processes that end, until a signal's handler raises."""
        while True:
            wait([process.sentinel for process, _ in self._processes.values()], _SIGNAL_CHECK)
            for number in (_REFRESHER, *range(self._hub.metrics.workers)):
                process, since = self._processes.get(number, (None, 0.0))
                if process and process.is_alive():
                    continue
                if process:
                    self._forget(number, process)
                if time.monotonic() - since < _AT_ONCE:
                    time.sleep(_AT_ONCE)
                # Otherwise, the next turn tries again.
                with contextlib.suppress(OSError):
                    self._start(number)

    def stop(self) -> None:
        """Stop all processes; transfers in progress get the grace period."""
        processes = [process for process, _ in self._processes.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._grace + _LEEWAY
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()

    def _forget(self, number: int, process: ForkProcess) -> None:
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        name = "the refresher" if number == _REFRESHER else f"worker {number + 1}"
        self._note(f"{name} has ended ({how}); starting another one")
        self._controls.pop(number).close()
        del self._processes[number]
        if number != _REFRESHER:
            self._hub.metrics.reset(number, math.inf)

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._controls[number] = ours
            process = _FORK.Process(target=self._run, args=(number, theirs))
            with _blocked_signals():
                process.start()
                self._processes[number] = process, time.monotonic()
        workers = range(self._hub.metrics.workers) if number == _REFRESHER else [number]
        for worker in workers:
            # A process that has ended is replaced, and gets another link then.
            with contextlib.suppress(OSError, KeyError):
                pass_link(self._controls[_REFRESHER], self._controls[worker])

    def _run(self, number: int, control: socket.socket) -> None:
        """Be the refresher or a worker."""
        try:
            for each in self._controls.values():
                each.close()
            is_worker = number != _REFRESHER
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            # The supervisor ends the refresher when Ctrl-C ends the hub.
            signal.signal(signal.SIGINT, signal.SIG_DFL if is_worker else signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if is_worker:
                self._work(number, control)
            else:
                self._refresh(control)
        except BaseException:
            write_traceback(sys.stderr)
            os._exit(EXIT_BUG)
        os._exit(0)

    def _work(self, number: int, control: socket.socket) -> None:
        self._hub.metrics.become(number)
        ready = threading.Event()
        threading.Thread(target=self._follow, args=(control, ready), name="follow", daemon=True).start()
        # Without the repos, it would answer 503.
        ready.wait(LONGEST_START)
        self._serve()

    def _follow(self, control: socket.socket, ready: threading.Event) -> None:
        """Apply what the refresher finds, and tell it what is looked up here; exit when the supervisor ends."""
        for link in passed_links(control):
            self._hub.repo_index.subscribe(link.send, snapshot=False)
            for message in link.received():
                if isinstance(message, Change):
                    self._hub.repo_index.apply(message)
                    ready.set()
                else:
                    self._hub.facts.add(message)
        os._exit(1)

    def _refresh(self, control: socket.socket) -> None:
        links: list[ProcessLink] = []
        threading.Thread(target=self._share, args=(control, links), name="share", daemon=True).start()
        error: LlmstackError | None = None
        try:
            self._refresher.start(lambda: self._read_facts(links))
        except LlmstackError as failed:
            error = failed
        with contextlib.suppress(OSError):
            self._reported.send(error)
        threading.Event().wait()

    def _share(self, control: socket.socket, links: list[ProcessLink]) -> None:
        """Send what changes to each worker that has a link; exit when the supervisor ends."""
        for link in passed_links(control):
            self._hub.repo_index.subscribe(link.send, snapshot=True)
            links.append(link)
            with contextlib.suppress(OSError):
                link.send(self._hub.facts.known(self._repos()))
            threading.Thread(target=self._forward, args=(link,), name="forward", daemon=True).start()
        os._exit(1)

    def _read_facts(self, links: list[ProcessLink]) -> None:
        """Read the facts of all repos, and send those that are new to the workers."""
        before = self._hub.facts.known(self._repos()).keys()
        self._hub.facts.read_all()
        after = self._hub.facts.known(self._repos())
        new = {digest: facts for digest, facts in after.items() if digest not in before}
        for link in list(links) if new else ():
            try:
                link.send(new)
            except OSError:
                links.remove(link)

    def _repos(self) -> list[Repo]:
        return self._hub.repo_index.repos() if self._hub.repo_index.refreshed else []

    def _forward(self, link: ProcessLink) -> None:
        for message in link.received():
            if isinstance(message, Change):
                self._hub.repo_index.apply(message, forward=True)


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Let no signal come between the start of a process and noting it; the process unblocks them itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
