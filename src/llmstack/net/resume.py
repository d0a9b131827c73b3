"""Reading a large object over HTTP: in order, in another thread, and over several connections where that is faster."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue

from llmstack.errors import LlmstackError
from llmstack.interrupts import postponed_signals
from llmstack.net.cancel import Cancelled
from llmstack.net.http_client import Client
from llmstack.net.network_errors import ConnectionLostError
from llmstack.net.ranged_object import CHUNK, OpenRange, RangedObject

# Smaller ranges are read in the caller's thread: there is nothing to gain.
_LARGE = 16 * 1024 * 1024
# Chunks that a connection reads ahead without reserved memory.
_CHUNKS_AHEAD = 2
# A stretch that is shortened keeps this much.
_LEAST_LEFT = 8 * CHUNK
# Seconds between two checks while a thread waits.
_CHECK = 0.1


def read_resuming(
    client: Client,
    open_range: OpenRange,
    *,
    what: str,
    size: int,
    start: int = 0,
    stop: int | None = None,
    home: Callable[[], str] | None = None,
) -> Generator[bytes, None, None]:
    """Yield the bytes from `start` up to `stop` of an object of `size` bytes; see RangedObject."""
    end = size if stop is None else stop
    ranged = RangedObject(client, open_range, what, size, home)
    if end - start < _LARGE:
        return ranged.read(start, end, client.backoff())
    return _Reader(ranged, start, end).chunks()


class _Stretch:
    """The bytes from `start` up to `stop` of an object, read by a thread of its own into `items`.

    `items` gets chunks, and at the end None or the exception that ended the thread. A `reserved` stretch has memory for
    all of its bytes; any other one waits until its chunks are consumed. A `patient` one retries, any other one has one
    try.
    """

    def __init__(self, ranged: RangedObject, start: int, stop: int, *, reserved: bool, patient: bool) -> None:
        self.stop = stop
        self.received = start
        self.reserved = reserved
        self.patient = patient
        self.ended = False
        self.abandoned = False
        self.items: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_CHUNKS_AHEAD):
            self.room.put(None)
        self._ranged = ranged
        with postponed_signals():
            threading.Thread(target=self._run, name="read-ahead", daemon=True).start()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:
            end: BaseException | None = error
        else:
            end = None
        self.ended = True
        self.items.put(end)

    def _read(self) -> None:
        client = self._ranged.client
        if (delay := client.parallel.delay) > 0 and client.cancel.wait(delay):
            raise Cancelled("cancelled")
        backoff = client.backoff(None if self.patient else 1, self._failed)
        read = self._ranged.read(self.received, self.stop, backoff, skip=self.patient)
        with contextlib.closing(read) as chunks:
            for chunk in chunks:
                if not self.reserved:
                    self._wait_for_room()
                if self.abandoned:
                    return
                # The reader may have shortened the stretch.
                kept = chunk[: self.stop - self.received]
                self.received += len(kept)
                client.parallel.received(len(kept))
                self.items.put(kept)
                if self.received == self.stop:
                    return

    def _failed(self, error: LlmstackError, retry_after: float | None) -> None:
        if self.abandoned:
            raise Cancelled("cancelled")
        if not isinstance(error, ConnectionLostError):
            self._ranged.client.parallel.refused(retry_after)

    def _wait_for_room(self) -> None:
        while not self.abandoned:
            with contextlib.suppress(Empty):
                self.room.get(timeout=_CHECK)
                return


class _Reader:
    """Reads from `start` up to `stop`, in the caller's thread; the stretches ahead of it are read by other threads.

    It starts with one stretch up to the end. When the client's ParallelLimit allows more connections, that stretch is
    shortened, and further ones follow it. A stretch that fails is read again from there, with the retry policy.
    """

    def __init__(self, ranged: RangedObject, start: int, stop: int) -> None:
        self._ranged = ranged
        self._limit = ranged.client.parallel
        self._position = start
        self._stop = stop
        self._stretches: deque[_Stretch] = deque()
        self._reserved = 0

    def chunks(self) -> Generator[bytes, None, None]:
        with self._limit.reader():
            try:
                while self._position < self._stop:
                    if chunk := self._next():
                        self._position += len(chunk)
                        yield chunk
            finally:
                self._abandon()

    def _next(self) -> bytes | None:
        """Return the next chunk, or None at the end of a stretch."""
        waited = 0.0
        while True:
            self._start_stretches(waited)
            first, began = self._stretches[0], time.monotonic()
            try:
                item = first.items.get(timeout=_CHECK)
            except Empty:
                waited = time.monotonic() - began
                if self._ranged.client.cancel.is_set():
                    raise Cancelled("cancelled") from None
                continue
            self._limit.share(time.monotonic() - began)
            return self._take(first, item)

    def _take(self, first: _Stretch, item: bytes | BaseException | None) -> bytes | None:
        if isinstance(item, bytes):
            if first.reserved:
                self._release(len(item))
            else:
                first.room.put(None)
            return item
        self._stretches.popleft()
        if isinstance(item, LlmstackError) and not isinstance(item, Cancelled) and not first.patient:
            self._read_again(first)
        elif item is not None:
            raise item
        return None

    def _read_again(self, failed: _Stretch) -> None:
        """Read what a stretch did not get, with the retry policy."""
        if not self._ranged.accepts_ranges:
            # Each response starts at the first byte.
            self._abandon()
            self._start(self._position, self._stop, reserved=False, patient=True)
            return
        again = _Stretch(self._ranged, self._position, failed.stop, reserved=failed.reserved, patient=True)
        self._stretches.appendleft(again)

    def _start_stretches(self, waited: float) -> None:
        """Start as many stretches as this reader may have connections."""
        share = self._limit.share(waited)
        if not self._ranged.accepts_ranges:
            share = 1
        running = sum(not stretch.ended for stretch in self._stretches)
        while running < share or not self._stretches:
            last = self._stretches[-1] if self._stretches else None
            start = last.stop if last else self._position
            size = self._limit.stretch()
            if share > 1 and last and start == self._stop:
                # Meanwhile it receives no more than the chunks ahead of the reader.
                start = last.received + max(size, _LEAST_LEFT)
                if last.reserved or last.ended or start + size >= self._stop:
                    return
                if not self._reserve(size):
                    return
                last.stop = start
                self._start(start, start + size, reserved=True)
            elif start == self._stop:
                return
            elif share > 1 and self._reserve(min(size, self._stop - start)):
                self._start(start, min(start + size, self._stop), reserved=True)
            elif not self._stretches or not running:
                self._start(start, self._stop, reserved=False, patient=True)
            else:
                return
            running += 1

    def _start(self, start: int, stop: int, *, reserved: bool, patient: bool = False) -> None:
        self._stretches.append(_Stretch(self._ranged, start, stop, reserved=reserved, patient=patient))

    def _reserve(self, size: int) -> bool:
        if not self._limit.reserve(size):
            return False
        self._reserved += size
        return True

    def _release(self, size: int) -> None:
        self._limit.release(size)
        self._reserved -= size

    def _abandon(self) -> None:
        """End all stretches; their threads end with the next chunk."""
        for stretch in self._stretches:
            stretch.abandoned = True
        self._stretches.clear()
        self._release(self._reserved)
