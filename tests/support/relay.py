"""A TCP relay in front of a Docker Engine; it forwards upgraded connections too."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

PIECE = 64 * 1024


class Relay:
    """Forwards to the engine at `host`; delays the response to a request that contains `what` by `seconds`.

    With `answer`, sends this instead of the response and closes the connection. `fired` counts.
    """

    def __init__(self, host: str, what: bytes, seconds: float = 0, answer: bytes = b"") -> None:
        self._upstream, self._what, self._seconds, self._answer = host, what, seconds, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fired = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="relay", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, _connect(self._upstream) as engine:
            waiting = threading.Event()
            answers = threading.Thread(target=self._answers, args=(engine, client, waiting), name="relay", daemon=True)
            answers.start()
            with contextlib.suppress(OSError):
                while piece := client.recv(PIECE):
                    if self._what in piece:
                        waiting.set()
                    engine.sendall(piece)
                engine.shutdown(socket.SHUT_WR)
            answers.join()

    def _answers(self, engine: socket.socket, client: socket.socket, waiting: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := engine.recv(PIECE):
                if waiting.is_set():
                    waiting.clear()
                    self.fired += 1
                    time.sleep(self._seconds)
                    if self._answer:
                        client.sendall(self._answer)
                        break
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)


def _connect(host: str) -> socket.socket:
    scheme, _, address = host.partition("://")
    if scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))
