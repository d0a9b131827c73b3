"""A small HTTP/1.1 server for tests: keep-alive, TCP_NODELAY, sendfile.

It parses only what the fixtures need, so that benchmarks measure the client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedReader
from pathlib import Path
from urllib.parse import parse_qs, unquote

# A body up to this size is sent in one write with its headers.
ONE_WRITE = 128 * 1024
SLOW_TICK = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """One request; header names are in lower case, `raw_path` is percent-encoded and without the query."""

    method: str
    raw_path: str
    raw_query: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.raw_query)


@dataclass(frozen=True, slots=True)
class BlobRange:
    """The bytes of a file from `start` up to `stop`."""

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Repeated:
    """The bytes from `start` up to `stop` of an endless repetition of a block."""

    block: bytes
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` up to `stop`, relative to this range."""
        position, end = self.start + start, self.start + stop
        view = memoryview(self.block)
        while position < end:
            offset = position % len(view)
            piece = view[offset : offset + end - position]
            position += len(piece)
            yield piece


Body = bytes | BlobRange | Repeated


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A fault while a body is sent: the connection closes or stalls after some bytes, or is slow."""

    drop_after: int | None = None
    stall_after: int | None = None
    bytes_per_second: int | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A response; Content-Length is the length of the body unless `headers` has another."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = b""
    disturbance: Disturbance | None = None


class WebServer:
    """Serves `handle(request)` on a free loopback port, with one thread per connection."""

    def __init__(self, handle: Callable[[Request], Response], host: str = "127.0.0.1", port: int = 0) -> None:
        self._handle = handle
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept, name="webserver", daemon=True)
        self._listener: socket.socket | None = None
        self._address = (host, port)

    @property
    def url(self) -> str:
        """The base URL, available after start()."""
        host, port = self._address
        if port == 0:
            raise RuntimeError("the server has not been started")
        return f"http://{host}:{port}"

    def start(self) -> None:
        self._listener = socket.create_server(self._address, backlog=256)
        self._address = (self._address[0], int(self._listener.getsockname()[1]))
        self._acceptor.start()

    def stop(self) -> None:
        """Close all connections and wait for all threads."""
        self._stopping.set()
        if self._listener is None:
            return
        # On Linux this ends an accept() in another thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            left = dict(self._connections)
        for connection, thread in left.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while self._listener is not None and not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="webserver-connection", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            # Clients may close their connection at any time; other exceptions are bugs of a fixture.
            with connection, connection.makefile("rb") as reader, contextlib.suppress(ConnectionError, TimeoutError):
                while (request := _read_request(reader)) is not None:
                    response = self._handle(request)
                    if not self._send(connection, request, response) or request.headers.get("connection") == "close":
                        return
        finally:
            with self._lock:
                self._connections.pop(connection)

    def _send(self, connection: socket.socket, request: Request, response: Response) -> bool:
        """Send a response; tell whether the connection can be used again."""
        body = b"" if request.method == "HEAD" else response.body
        head = _head(response)
        if response.disturbance is not None and len(body):
            connection.sendall(head)
            return self._send_disturbed(connection, body, response.disturbance)
        if len(body) <= ONE_WRITE:
            connection.sendall(head + _bytes(body, 0, len(body)))
        else:
            connection.sendall(head)
            _send_body(connection, body, 0, len(body))
        return True

    def _send_disturbed(self, connection: socket.socket, body: Body, disturbance: Disturbance) -> bool:
        limits = (len(body), disturbance.drop_after, disturbance.stall_after)
        end = min(limit for limit in limits if limit is not None)
        for start, stop in self._ticks(end, disturbance.bytes_per_second):
            _send_body(connection, body, start, stop)
        if disturbance.stall_after is not None and disturbance.stall_after <= end:
            self._stopping.wait()
        if end == len(body):
            return True
        # The client may have closed it already.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        return False

    def _ticks(self, end: int, rate: int | None) -> Iterable[tuple[int, int]]:
        step = end if rate is None else max(1, int(rate * SLOW_TICK))
        for start in range(0, end, step or 1):
            if rate is not None and self._stopping.wait(SLOW_TICK):
                return
            yield start, min(end, start + step)


def _read_request(reader: BufferedReader) -> Request | None:
    """Read one request; None if the client closed the connection or the request is not HTTP."""
    words = reader.readline(65536).decode("latin-1").split()
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return None
    method, target, _ = words
    headers = {}
    while (line := reader.readline(65536)) not in {b"\r\n", b"\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b"".join(_read_chunks(reader))
    else:
        body = reader.read(int(headers.get("content-length", "0")))
    raw_path, _, raw_query = target.partition("?")
    return Request(method, raw_path, raw_query, headers, body)


def _read_chunks(reader: BufferedReader) -> Iterable[bytes]:
    while size := int(reader.readline(100).strip() or b"0", 16):
        yield reader.read(size)
        reader.readline(100)
    reader.readline(100)


def _head(response: Response) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if "Content-Length" not in response.headers:
        lines.append(f"Content-Length: {len(response.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _bytes(body: Body, start: int, stop: int) -> bytes:
    if isinstance(body, bytes):
        return body[start:stop]
    if isinstance(body, Repeated):
        return b"".join(body.pieces(start, stop))
    descriptor = os.open(body.path, os.O_RDONLY)
    try:
        return os.pread(descriptor, stop - start, body.start + start)
    finally:
        os.close(descriptor)


def _send_body(connection: socket.socket, body: Body, start: int, stop: int) -> None:
    if isinstance(body, bytes):
        connection.sendall(memoryview(body)[start:stop])
        return
    if isinstance(body, Repeated):
        for piece in body.pieces(start, stop):
            connection.sendall(piece)
        return
    with body.path.open("rb") as file:
        connection.sendfile(file, body.start + start, stop - start)
