"""Where blocking work is done: the event loop waits for threads, of which there is a fixed number."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Reads of blobs wait for the registry; what is answered from memory, or nearly so, must not wait behind them.
_READERS = 48
_LOOKUPS = 16


class Threads:
    """The two pools; `reads` counts the transfers that are open."""

    def __init__(self) -> None:
        self._readers = ThreadPoolExecutor(_READERS, "read")
        self._lookups = ThreadPoolExecutor(_LOOKUPS, "lookup")
        self.reads = 0

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function that may read something small, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._lookups, partial(function, *args, **kwargs))

    async def open(self, chunks: Generator[bytes, None, None]) -> Transfer:
        """Begin a transfer; it is returned when its first bytes are there. Raises what the generator raises."""
        transfer = Transfer(self, self._readers, chunks)
        try:
            await transfer.begin()
        except BaseException:
            transfer.close()
            raise
        return transfer

    def close(self) -> None:
        """Take no more work; what runs ends by itself."""
        for pool in (self._readers, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)


class Transfer:
    """A generator of bytes whose chunks are made in threads, one ahead of the one that is asked for.

    Whoever has it must close it; used by one task alone.
    """

    def __init__(self, threads: Threads, pool: ThreadPoolExecutor, chunks: Generator[bytes, None, None]) -> None:
        self._threads = threads
        self._pool = pool
        self._chunks = chunks
        self._first: bytes | None = None
        self._closed = False
        threads.reads += 1
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
        """End the transfer; where a thread is busy with it, as soon as that is done."""
        if self._closed:
            return
        self._closed = True
        self._threads.reads -= 1
        self._ahead.cancel()
        self._ahead.add_done_callback(self._end)

    def _end(self, _: Future[bytes | None]) -> None:
        # Ending a transfer may read what little is left of it. No more work is taken at the very end of the process.
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._chunks.close)

    def _submit(self) -> Future[bytes | None]:
        return self._pool.submit(next, self._chunks, None)
