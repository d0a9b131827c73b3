"""Ending what a client has under way, even where the other side has fallen silent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from llmstack.errors import LlmstackError

# How long what is being written may take to end in order, once all is cancelled: a registry is told that an upload is
# given up, and one that says nothing is not waited for.
GRACE = 5.0


class Cancelled(LlmstackError):  # noqa: N818 - a state, not an error: it never reaches the person
    """Other work of the same run failed or was interrupted, so this one stops too."""


class Cancel(threading.Event):
    """Set, it ends all transfers: what is being read at once, what is being written in order or after GRACE seconds.

    A thread that waits for bytes cannot look at an event, so its connection is shut down under it. Cleared, the same
    client goes on with the next piece of work. `expired` tells whether somebody was still silent when GRACE was over.
    """

    def __init__(self) -> None:
        super().__init__()
        # Whether a socket is only read from: all that was to be sent is an idempotent request.
        self._sockets: WeakKeyDictionary[socket.socket, bool] = WeakKeyDictionary()
        # Reentrant: a signal may come while this very thread holds it.
        self._lock = threading.RLock()
        self._grace: threading.Timer | None = None
        self._cleared = 0
        self.expired = False

    def watch(self, sock: socket.socket, *, reading: bool) -> None:
        """Remember a connection, and what it is used for now."""
        with self._lock:
            self._sockets[sock] = reading

    def set(self) -> None:
        """End everything."""
        super().set()
        self._shut(writing=False)
        with self._lock:
            if self._grace is None:
                self._grace = self._timer(GRACE)

    def clear(self) -> None:
        """Let the next work begin; what was cancelled must have ended."""
        with self._lock:
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None
            self.expired = False
            self._cleared += 1
            super().clear()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Cancel all that is still under way after so many seconds; at the end all is as it was."""
        timer = self._timer(seconds)
        try:
            yield
        finally:
            timer.cancel()
            self.clear()

    def _timer(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._expire, [self._cleared])
        timer.daemon = True
        timer.start()
        return timer

    def _expire(self, cleared: int) -> None:
        with self._lock:
            # It may be too late to stop a timer that is not wanted any more.
            if cleared != self._cleared:
                return
            super().set()
            # Before anybody who is woken can ask.
            self.expired = any(sock.fileno() >= 0 for sock in self._sockets)
        self._shut(writing=True)

    def _shut(self, *, writing: bool) -> None:
        """Shut connections down, whoever reads from them or writes to them."""
        with self._lock:
            sockets = [sock for sock, reading in self._sockets.items() if reading or writing]
            for sock in sockets:
                del self._sockets[sock]
        for sock in sockets:
            # A copy of the descriptor: TLS objects must not be touched by two threads.
            with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(sock.fileno())) as twin:
                twin.shutdown(socket.SHUT_RDWR)
