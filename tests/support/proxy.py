"""A proxy on loopback that fails at a chosen byte of a chosen request.

with Proxy(registry.url) as proxy:
    proxy.rules = [Rule("PATCH", "/blobs/uploads/", cut_request=1000)]
    ...  # use proxy.url instead of registry.url
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedReader
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

PIECE = 64 * 1024
# SO_LINGER with a timeout of 0: close() sends a reset.
RESET = struct.pack("ii", 1, 0)
TICK_MS = 50


class _Gone(Exception):  # noqa: N818 - a state
    """One of the two sides closed its connection."""


@dataclass(slots=True)
class Rule:
    """One fault, for requests with a matching method and target: after `skip` of them, `times` times.

    `status` is sent instead of the server's response, after the request body was read; with `early` before. `drop`
    closes the connection instead of forwarding the request. All other faults forward it. These take the number of a
    byte of the body: `cut_request` and `cut_answer` close both connections there (with `reset` by a RST),
    `stall_request` and `stall_answer` forward nothing more, `corrupt_request` and `corrupt_answer` change the byte,
    `truncate_answer` ends the body there with a matching Content-Length. `lose_answer` closes the connection after the
    server has answered, `silent` never forwards the response. `then` is called at that moment, also without another
    fault. `fired` counts.
    """

    method: str
    target: str
    skip: int = 0
    times: int | None = 1
    status: int | None = None
    code: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    early: bool = False
    drop: bool = False
    cut_request: int | None = None
    stall_request: int | None = None
    corrupt_request: int | None = None
    cut_answer: int | None = None
    stall_answer: int | None = None
    corrupt_answer: int | None = None
    truncate_answer: int | None = None
    lose_answer: bool = False
    silent: bool = False
    reset: bool = False
    then: Callable[[], object] | None = None
    fired: int = 0

    def fire(self) -> None:
        self.fired += 1
        if self.then is not None:
            self.then()


@dataclass(frozen=True, slots=True)
class Seen:
    """One request; `target` is its path and query."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Head:
    first: str
    headers: dict[str, str]
    raw: bytes

    @property
    def status(self) -> int:
        return int(self.first.split()[1])


class Proxy:
    """A proxy for one HTTP server; `watch` is called with each request before it is forwarded."""

    def __init__(self, url: str, watch: Callable[[Seen], None] = lambda _: None) -> None:
        parts = urlsplit(url)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self.watch = watch
        self.rules: Sequence[Rule] = ()
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._port = 0
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.refuse()
        for thread in self._threads:
            thread.join()

    def accept(self) -> None:
        """Accept connections, on the same port as before."""
        if self._listener is not None:
            return
        listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
        self._port, self._listener = int(listener.getsockname()[1]), listener
        self._start(self._accept, listener)

    def refuse(self) -> None:
        """Refuse new connections and close the existing ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            left = list(self._open)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, _Gone, ValueError), contextlib.ExitStack() as stack:
            self._hold(stack, client)
            server = socket.create_connection(self._upstream)
            self._hold(stack, server)
            requests = stack.enter_context(client.makefile("rb"))
            answers = stack.enter_context(server.makefile("rb"))
            while (head := _read_head(requests)) is not None:
                _Exchange(self._stopping, client, server, requests, answers).run(head, self._take(head))

    def _hold(self, stack: contextlib.ExitStack, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        stack.callback(self._open.discard, connection)
        stack.enter_context(connection)

    def _take(self, head: _Head) -> Rule:
        method, target, _ = head.first.split()
        seen = Seen(method, target, head.headers)
        self.watch(seen)
        with self._lock:
            self.seen.append(seen)
            for rule in self.rules:
                if re.fullmatch(rule.method, method) and re.search(rule.target, target) and rule.times != 0:
                    if rule.skip:
                        rule.skip -= 1
                        continue
                    if rule.times is not None:
                        rule.times -= 1
                    return rule
        return Rule("", "")


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request and its response."""

    stopping: threading.Event
    client: socket.socket
    server: socket.socket
    requests: BufferedReader
    answers: BufferedReader

    def run(self, head: _Head, rule: Rule) -> None:
        if rule.status is not None:
            self._answer(head, rule, rule.status)
            return
        if rule.drop:
            self._cut(rule)
        self.server.sendall(head.raw)
        body = _pieces(self.requests, head.headers, until_close=False)
        self._pass(body, self.server, rule, rule.cut_request, rule.stall_request, rule.corrupt_request)
        answer = _read_head(self.answers)
        if answer is None:
            raise _Gone
        if rule.lose_answer:
            self._cut(rule)
        if rule.silent:
            self._stall(rule)
        if rule.then is not None and not _at_a_byte(rule):
            rule.fire()
        empty = head.first.startswith("HEAD ") or answer.status in {204, 304} or answer.status < 200
        body = iter(()) if empty else _pieces(self.answers, answer.headers, until_close=True)
        if rule.truncate_answer is not None and not empty:
            self._truncate(answer, body, rule, rule.truncate_answer)
            return
        self.client.sendall(answer.raw)
        self._pass(body, self.client, rule, rule.cut_answer, rule.stall_answer, rule.corrupt_answer)

    def _answer(self, head: _Head, rule: Rule, status: int) -> None:
        if not rule.early:
            for _ in _pieces(self.requests, head.headers, until_close=False):
                pass
        rule.fire()
        text = b'{"errors":[{"code":"%s","message":"made to fail"}]}' % (rule.code or "UNKNOWN").encode()
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(text)}"]
        lines += [f"{name}: {value}" for name, value in rule.headers.items()]
        self.client.sendall("\r\n".join([*lines, "", ""]).encode() + (b"" if head.first.startswith("HEAD ") else text))
        if rule.early:
            raise _Gone

    def _pass(
        self,
        body: Iterator[tuple[bytes, bytes, bytes]],
        target: socket.socket,
        rule: Rule,
        cut: int | None,
        stall: int | None,
        corrupt: int | None,
    ) -> None:
        """Forward a body up to the byte of the fault."""
        position = 0
        for before, data, after in body:
            passed = data
            for limit in (cut, stall):
                if limit is not None and position <= limit < position + len(data):
                    target.sendall(before + data[: limit - position])
                    if limit == cut:
                        self._cut(rule)
                    self._stall(rule)
            if corrupt is not None and position <= corrupt < position + len(data):
                at = corrupt - position
                passed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
                rule.fire()
            target.sendall(before + passed + after)
            position += len(data)

    def _truncate(self, answer: _Head, body: Iterator[tuple[bytes, bytes, bytes]], rule: Rule, size: int) -> None:
        complete = b"".join(data for _, data, _ in body)
        if size < len(complete):
            rule.fire()
        head = re.sub(rb"(?i)content-length: \d+", b"Content-Length: %d" % min(size, len(complete)), answer.raw)
        self.client.sendall(head + complete[:size])

    def _cut(self, rule: Rule) -> None:
        rule.fire()
        if rule.reset:
            for side in (self.client, self.server):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        raise _Gone

    def _stall(self, rule: Rule) -> None:
        """Forward nothing more until the client disconnects."""
        rule.fire()
        poll = select.poll()
        poll.register(self.client, select.POLLRDHUP)
        while not poll.poll(TICK_MS) and not self.stopping.is_set():
            pass
        raise _Gone


def _at_a_byte(rule: Rule) -> bool:
    requests = (rule.cut_request, rule.stall_request, rule.corrupt_request)
    answers = (rule.cut_answer, rule.stall_answer, rule.corrupt_answer, rule.truncate_answer)
    return any(position is not None for position in (*requests, *answers))


def _read_head(reader: BufferedReader) -> _Head | None:
    lines = []
    while (line := reader.readline(PIECE)) not in {b"\r\n", b""}:
        lines.append(line)
    if not lines:
        return None
    pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return _Head(lines[0].decode("latin-1").strip(), headers, b"".join([*lines, b"\r\n"]))


def _pieces(
    reader: BufferedReader, headers: Mapping[str, str], *, until_close: bool
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield the bytes of a body, each piece with its framing before and after it."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        yield from _chunked(reader)
    elif "content-length" in headers:
        yield from ((b"", data, b"") for data in _exactly(reader, int(headers["content-length"])))
    elif until_close:
        while data := reader.read1(PIECE):
            yield b"", data, b""
        raise _Gone


def _chunked(reader: BufferedReader) -> Iterator[tuple[bytes, bytes, bytes]]:
    while size := int((line := reader.readline(100)).split(b";")[0], 16):
        left = size
        for data in _exactly(reader, size):
            left -= len(data)
            yield (b"" if left + len(data) < size else line), data, (b"" if left else reader.readline(100))
    yield line, b"", reader.readline(100)


def _exactly(reader: BufferedReader, size: int) -> Iterator[bytes]:
    while size:
        data = reader.read1(min(PIECE, size))
        if not data:
            raise _Gone
        size -= len(data)
        yield data
