"""SIGINT and SIGTERM: they raise an exception in the main thread, but not inside operations that it would break."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """SIGINT or SIGTERM was received: clean up and exit.

    Not a KeyboardInterrupt: Typer catches that itself and knows one exit code only.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.terminated = number == signal.SIGTERM
        # What the user is told; most commands resume.
        self.hint = "rerun to resume"


def handle_signals() -> None:
    """Raise Interrupted in the main thread at the first signal; a second one ends the process at once."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    sys.unraisablehook = _deliver_again


def _deliver_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a signal again that was lost: Python drops exceptions in __del__ and in callbacks of weak references."""
    if not isinstance(unraisable.exc_value, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    handle_signals()
    # A moment later and from another thread: in here, its exception would be dropped too.
    main = threading.main_thread().ident
    timer = threading.Timer(0.01, signal.pthread_kill, [main, unraisable.exc_value.number])
    timer.daemon = True
    timer.start()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, lambda again, _: os._exit(128 + again))
    raise Interrupted(number)


@contextlib.contextmanager
def postponed_signals() -> Iterator[None]:
    """Call the handlers of SIGINT and SIGTERM at the end of the block, not inside it; the block must be short.

    For starting a thread, submitting to a pool and setting an event: Python implements them with `threading.Condition`.
    An exception from a signal handler between its `__enter__` and the caller's `with` block leaves its lock locked, and
    other threads wait for it without end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def postpone(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    # SIG_DFL and SIG_IGN raise nothing.
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in replaced:
        signal.signal(number, postpone)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for missed in received:
            signal.raise_signal(missed)
