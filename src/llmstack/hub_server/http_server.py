"""uvicorn with limits on connections and on time, so that slow or hostile clients do not stop others.

uvicorn limits the bytes of a request's head (with h11; httptools has no such limit), the time of idle connections and
the number of requests. It does not limit the number of connections, the time of a TLS handshake or of a request, or the
time that a client reads nothing of a response.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import h11
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from llmstack.hub_server.file_sending import FileSending
from llmstack.hub_server.layout_files import ZERO_COPY
from llmstack.hub_server.metrics import Metrics

# The head of a request, in bytes: the path and all headers.
MAX_HEAD = 32 * 1024
_MAX_CONNECTIONS = 1000
# A worker leaves a new connection to one that has fewer for this time, in seconds.
_HEAD_START = 0.002
# Descriptors for the registry, the layout and the process itself.
_RESERVED = 160


@dataclass(frozen=True, slots=True)
class Limits:
    """`connections` at a time, and two times in seconds.

    `request` is for the TLS handshake, or a complete request after the connection or the last response. `stall` is for
    a client that reads nothing of a response.
    """

    connections: int
    request: float = 30.0
    stall: float = 120.0

    def shared(self, workers: int) -> Limits:
        """Return the limits of one of several workers."""
        return replace(self, connections=math.ceil(self.connections / workers))


def process_limits() -> Limits:
    """Raise the soft limit of file descriptors as needed, and return limits that fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _MAX_CONNECTIONS + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Limits(_MAX_CONNECTIONS)
    return Limits(min(_MAX_CONNECTIONS, max(soft - _RESERVED, soft // 2)))


class LimitedServer(uvicorn.Server):
    """A uvicorn server for one listening socket, which other workers may have, too.

    At the connection limit, it closes the oldest idle connection.
    """

    def __init__(self, config: uvicorn.Config, listening: socket.socket, limits: Limits, metrics: Metrics) -> None:
        # Used when no connection is idle: the answer is 503.
        config.limit_concurrency = limits.connections + 1
        super().__init__(config)
        self._listening = listening
        self._limits = limits
        self._metrics = metrics
        self._connections: dict[_Connection, None] = {}
        self._paused: asyncio.TimerHandle | None = None
        self._enforcing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets or [])
        self._listening.setblocking(False)
        self._listen()
        self._enforcing = asyncio.create_task(self._enforce_times())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to accept connections, and wait for the requests in progress."""
        asyncio.get_running_loop().remove_reader(self._listening)
        for pending in (self._paused, self._enforcing):
            if pending:
                pending.cancel()
        self._listening.close()
        await super().shutdown(sockets)

    def forget(self, connection: _Connection) -> None:
        """Count a connection no more."""
        self._connections.pop(connection, None)
        self._metrics.set_load(len(self._connections))

    def _listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._listening, self._accept)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening)
        self._paused = loop.call_later(seconds, then)

    def _accept(self) -> None:
        """Accept a client, at once if no other worker should rather do it."""
        is_full = len(self._connections) >= self._limits.connections
        if self._metrics.has_lowest_load() and not (is_full and self._metrics.workers > 1):
            self._accept_now()
        else:
            self._pause(_HEAD_START, self._accept_late)

    def _accept_late(self) -> None:
        self._listen()
        self._accept_now()

    def _accept_now(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except BlockingIOError:
            # Another worker has accepted it.
            return
        except OSError:
            # No descriptor is free, or the client has disconnected.
            self._pause(0.1, self._listen)
            return
        accepted.setblocking(False)
        if len(self._connections) >= self._limits.connections and (oldest := self._oldest_idle()):
            self._close(oldest)
        loop = asyncio.get_running_loop()
        connection = _Connection(self, loop)
        self._connections[connection] = None
        self._metrics.set_load(len(self._connections))
        connection.opening = loop.create_task(self._open(connection, accepted))

    def _oldest_idle(self) -> _Connection | None:
        idle = (connection for connection in self._connections if connection.is_idle)
        return min(idle, key=lambda connection: connection.since, default=None)

    async def _open(self, connection: _Connection, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted, ssl=self.config.ssl)
        except (OSError, asyncio.CancelledError):
            # The TLS handshake failed or took too long.
            self.forget(connection)

    async def _enforce_times(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._limits.request))
            for connection in list(self._connections):
                if connection.is_overdue(loop.time(), self._limits):
                    self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self.forget(connection)
        connection.abort()


class _Connection(H11Protocol):
    """One connection; `since` is the time when it was opened, or when its last response ended."""

    def __init__(self, server: LimitedServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state, loop)
        self._server = server
        self.opening: asyncio.Task[None] | None = None
        self.since = loop.time()
        self._open_transport: asyncio.Transport | None = None
        self._app, self.app = self.app, self._with_zero_copy
        self._sending: FileSending | None = None
        self._unsent = 0
        self._progress = self.since

    @property
    def is_idle(self) -> bool:
        """Tell whether neither a complete request nor a response is in progress."""
        return self._waits_for_request and not self._unsent_bytes()

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """Tell whether the client takes too long to send a request or to read a response."""
        unsent = self._unsent_bytes()
        if unsent != self._unsent:
            self._unsent, self._progress = unsent, now
        if unsent:
            return now - self._progress > limits.stall
        return self._waits_for_request and now - self.since > limits.request

    def abort(self) -> None:
        """Close the connection at once."""
        if self._open_transport:
            self._open_transport.abort()
        elif self.opening:
            self.opening.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        self._open_transport = cast(asyncio.Transport, transport)
        super().connection_made(self._open_transport)

    def on_response_complete(self) -> None:
        """Start to wait for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Note that the client has read: the number of unsent bytes may be the same at each look."""
        self._progress = self.loop.time()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another connection."""
        self._server.forget(self)
        if self._sending:
            self._sending.cancel()
        super().connection_lost(exc)

    async def _with_zero_copy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; offer the extension to send files without a copy, except with TLS."""

        async def send_all(message: Message) -> None:
            if message["type"] == ZERO_COPY:
                await self._send_file(message["file"], message["offset"], message["count"])
            else:
                await send(message)

        if self._server.config.ssl is None:
            scope["extensions"] = {ZERO_COPY: {}}
        await self._app(scope, receive, send_all)

    async def _send_file(self, file: int, offset: int, count: int) -> None:
        """Send a part of a file after the head of the response; raises IntegrityError if it is shorter."""
        transport = self._open_transport
        if transport is None or transport.is_closing():
            return
        # h11 counts the bytes, and returns what to send around them.
        self.conn.send_with_data_passthrough(h11.Data(data=cast(bytes, range(count))))
        while transport.get_write_buffer_size() and not transport.is_closing():
            await asyncio.sleep(_HEAD_START)
        if transport.is_closing():
            return
        self._sending = FileSending(transport.get_extra_info("socket").fileno(), file, offset, count)
        try:
            await self._sending.run()
            if self._sending.left:
                transport.abort()
        finally:
            self._sending = None

    @property
    def _waits_for_request(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete or cycle.more_body

    def _unsent_bytes(self) -> int:
        unsent = self._open_transport.get_write_buffer_size() if self._open_transport else 0
        return unsent + (self._sending.left if self._sending else 0)
