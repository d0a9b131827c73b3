"""Files in an OCI layout, sent by the kernel: their bytes are not copied into this process.

They are not hashed on the way either, so a complete file is sent like this only if it was hashed before, and if its
blob's file is still the same.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import IO

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmstack.carried_image.file_index import BlobRange, extents
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.metrics import Metrics, Slot
from llmstack.hub_server.repos import Found
from llmstack.oci.layout import Layout

# The extension of ASGI for this.
ZERO_COPY = "http.response.zerocopysend"
_MAX_HASHED = 20_000
# What changes when a file is replaced or written to.
_State = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class FileRange:
    """An open file and the range to send; the owner must close the file."""

    file: IO[bytes]
    start: int
    size: int


class LayoutFiles:
    """Opens files that can be sent without a copy; remembers which ones were hashed. Thread-safe."""

    def __init__(self) -> None:
        self._hashed = Cache[tuple[BlobRange, str], _State](_MAX_HASHED, lambda _: 1)

    def open(self, found: Found, start: int, stop: int) -> FileRange | None:
        """Open a range of a file; None for a file that is not in a layout, in parts, or complete and not hashed yet.

        Raises NotFoundError, IntegrityError, UnavailableError.
        """
        reader, parts = found.revision.reader, extents(found.file, start, stop - start)
        if not isinstance(reader, Layout) or len(parts) != 1:
            return None
        file = reader.open_blob(found.files.layers[parts[0].layer].blob)
        is_complete = stop - start == found.file.size
        if is_complete and found.file.sha256 and self._hashed.find(_key(found)) != _state(file):
            file.close()
            return None
        return FileRange(file, parts[0].offset, parts[0].size)

    def hashed(self, found: Found, chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        """Pass on the chunks of a complete file, which are hashed; remember it when they have all been read."""
        reader = found.revision.reader
        if not isinstance(reader, Layout) or len(found.file.ranges) != 1:
            yield from chunks
            return
        blob = found.files.layers[found.file.ranges[0].layer].blob
        with reader.open_blob(blob) as file:
            before = _state(file)
        yield from chunks
        with reader.open_blob(blob) as file:
            if _state(file) == before:
                self._hashed.put(_key(found), before)


def _key(found: Found) -> tuple[BlobRange, str]:
    return found.file.ranges[0], found.file.sha256


def _state(file: IO[bytes]) -> _State:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class FileResponse(Response):
    """Sends a range of a file without a copy, and closes it."""

    def __init__(self, metrics: Metrics, part: FileRange, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._metrics = metrics
        self._part = part

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the response (ASGI 3)."""
        part = self._part
        self._metrics.add(Slot.OPEN_READS, 1)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": ZERO_COPY, "file": part.file.fileno(), "offset": part.start, "count": part.size})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._metrics.add(Slot.OPEN_READS, -1)
            part.file.close()
