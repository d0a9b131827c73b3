"""The SHA-256 of a stream, computed in another thread while the caller reads and writes."""

from __future__ import annotations

import hashlib
import threading
import weakref
from queue import SimpleQueue

from llmstack.interrupts import postponed_signals

# Bytes that are hashed by the caller: a thread costs more than hashing a small stream.
_SMALL = 4 * 1024 * 1024
# Chunks that wait for the thread.
_WAITING = 2

_Data = bytes | memoryview


class StreamHash:
    """As `hashlib.sha256()`. The caller must not change the bytes that it has passed to `update`."""

    def __init__(self, sha256: hashlib._Hash | None = None) -> None:
        self._sha256 = sha256 or hashlib.sha256()
        self._left_to_caller = _SMALL
        self._chunks: SimpleQueue[_Data | None] = SimpleQueue()
        # One item for each chunk that may be given to the thread.
        self._room: SimpleQueue[None] = SimpleQueue()

    def update(self, data: _Data) -> None:
        """Hash the next bytes, now or in the thread."""
        if self._left_to_caller > 0:
            self._sha256.update(data)
            self._left_to_caller -= len(data)
            if self._left_to_caller <= 0:
                self._start()
            return
        self._room.get()
        self._chunks.put(data)

    def hexdigest(self) -> str:
        """Return the hash of all bytes."""
        self._wait()
        return self._sha256.hexdigest()

    def copy(self) -> StreamHash:
        """Return an independent hash of the same bytes."""
        self._wait()
        return StreamHash(self._sha256.copy())

    def _start(self) -> None:
        for _ in range(_WAITING + 1):
            self._room.put(None)
        arguments = self._sha256, self._chunks, self._room
        with postponed_signals():
            threading.Thread(target=_hash, args=arguments, name="hash", daemon=True).start()
        # The thread ends with this object, also after an error.
        weakref.finalize(self, self._chunks.put, None)

    def _wait(self) -> None:
        """Wait until the thread has hashed all chunks."""
        if self._left_to_caller <= 0:
            for _ in range(_WAITING + 1):
                self._room.get()
            for _ in range(_WAITING + 1):
                self._room.put(None)


def _hash(sha256: hashlib._Hash, chunks: SimpleQueue[_Data | None], room: SimpleQueue[None]) -> None:
    while (data := chunks.get()) is not None:
        sha256.update(data)
        room.put(None)
