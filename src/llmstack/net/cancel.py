"""Cancelling the transfers of a client, including those that wait for a server that sends nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from llmstack.errors import LlmstackError
from llmstack.interrupts import postponed_signals

# After a cancel, uploads have this many seconds to tell the registry that they are cancelled.
GRACE = 5.0


class Cancelled(LlmstackError):  # noqa: N818 - a state, not an error: users never see it
    """Other work of the same run failed or was interrupted, so this work stops too."""


class Cancel(threading.Event):
    """An event that ends all transfers: reads at once, writes after GRACE seconds.

    A thread that waits for bytes cannot check an event, so its connection is shut down. After clear(), the same client
    can be used again. `expired` tells whether a connection was still in use when the time was over.
    """

    def __init__(self) -> None:
        super().__init__()
        # The value tells whether the connection is used for reading: its request is idempotent.
        self._sockets: WeakKeyDictionary[socket.socket, bool] = WeakKeyDictionary()
        # Reentrant: a signal handler may run in the thread that holds it.
        self._lock = threading.RLock()
        self._grace: threading.Timer | None = None
        self._generation = 0
        self.expired = False

    def register(self, sock: socket.socket, *, reading: bool) -> None:
        """Add a connection, or change what it is used for."""
        with self._lock:
            self._sockets[sock] = reading

    def set(self) -> None:
        """Cancel all transfers."""
        with postponed_signals():
            super().set()
            self._shut_down(writing=False)
            with self._lock:
                if self._grace is None:
                    self._grace = self._timer(GRACE)

    def clear(self) -> None:
        """Allow new transfers; the cancelled ones must have ended."""
        with postponed_signals(), self._lock:
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None
            self.expired = False
            self._generation += 1
            super().clear()

    @contextlib.contextmanager
    def time_limit(self, seconds: float) -> Iterator[None]:
        """Cancel all transfers, writes included, after `seconds`; clear the event at the end."""
        timer = self._timer(seconds)
        try:
            yield
        finally:
            with postponed_signals():
                timer.cancel()
            self.clear()

    def _timer(self, seconds: float) -> threading.Timer:
        timer = threading.Timer(seconds, self._expire, [self._generation])
        timer.daemon = True
        with postponed_signals():
            timer.start()
        return timer

    def _expire(self, generation: int) -> None:
        with self._lock:
            # Timer.cancel() has no effect on a timer that already runs.
            if generation != self._generation:
                return
            super().set()
            # Before any waiting thread wakes up and reads it.
            self.expired = any(sock.fileno() >= 0 for sock in self._sockets)
        self._shut_down(writing=True)

    def _shut_down(self, *, writing: bool) -> None:
        """Shut down the connections that are used for reading, and with `writing` all others too."""
        with self._lock:
            sockets = [sock for sock, reading in self._sockets.items() if reading or writing]
            for sock in sockets:
                del self._sockets[sock]
        for sock in sockets:
            # On a duplicate: two threads must not use one TLS object.
            with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(sock.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)
