"""Blocking reads in threads, and responses that stream them at the client's pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmstack.hub_server.metrics import Metrics, Slot

P = ParamSpec("P")
R = TypeVar("R")

# Reads of blobs wait for the registry. Lookups are mostly answered from memory and must not queue behind them.
_READERS = 48
_LOOKUPS = 16


class Threads:
    """The two thread pools; open transfers are counted in `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._lookups = ThreadPoolExecutor(_LOOKUPS, "lookup")

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that reads little, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lookups, partial(function, *args, **kwargs))

    async def read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that may wait for the registry, in a thread."""
        loop = asyncio.get_running_loop()
        self.metrics.add(Slot.OPEN_READS, 1)
        try:
            return await loop.run_in_executor(self._readers, partial(function, *args, **kwargs))
        finally:
            self.metrics.add(Slot.OPEN_READS, -1)

    async def open(self, chunks: Generator[bytes, None, None]) -> Transfer:
        """Start a transfer and wait for its first chunk; raises what the generator raises."""
        transfer = Transfer(self, self._readers, chunks)
        try:
            await transfer.begin()
        except BaseException:
            transfer.close()
            raise
        return transfer

    def close(self) -> None:
        """Take no more work and cancel what has not started."""
        for pool in (self._readers, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)


class Transfer:
    """A generator of bytes that runs in threads, one chunk ahead.

    The owner must close it. For use by one task only.
    """

    def __init__(self, threads: Threads, pool: ThreadPoolExecutor, chunks: Generator[bytes, None, None]) -> None:
        self._threads = threads
        self._pool = pool
        self._chunks = chunks
        self._first: bytes | None = None
        self._closed = False
        threads.metrics.add(Slot.OPEN_READS, 1)
        self._ahead = self._submit()

    async def begin(self) -> None:
        """Wait for the first chunk."""
        self._first = await asyncio.wrap_future(self._ahead)
        self._ahead = self._submit()

    async def next(self) -> bytes | None:
        """Return the next chunk, None at the end; raises what the generator raises."""
        if (first := self._first) is not None:
            self._first = None
            return first
        chunk = await asyncio.wrap_future(self._ahead)
        if chunk is not None:
            self._ahead = self._submit()
        return chunk

    def close(self) -> None:
        """End the transfer, after the read that is in progress."""
        if self._closed:
            return
        self._closed = True
        self._threads.metrics.add(Slot.OPEN_READS, -1)
        self._ahead.cancel()
        self._ahead.add_done_callback(self._end)

    def _end(self, _: Future[bytes | None]) -> None:
        # Closing the generator may read the rest of a small response. The pool refuses work when the process ends.
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._chunks.close)

    def _submit(self) -> Future[bytes | None]:
        return self._pool.submit(next, self._chunks, None)


class StreamedResponse(Response):
    """Sends a transfer's chunks and closes the transfer, also when the client disconnects.

    Raises what the transfer raises: the server then drops the connection, so that the client sees the failure.
    """

    def __init__(self, transfer: Transfer, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._transfer = transfer

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response (ASGI 3)."""
        disconnected = asyncio.ensure_future(_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (chunk := await self._transfer.next()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if disconnected.done():
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            disconnected.cancel()
            self._transfer.close()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
