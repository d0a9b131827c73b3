"""Compressed layers as streams: gzip and zstd, told by their first bytes, whatever the media type claims."""

from __future__ import annotations

import io
import zlib
from collections.abc import Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Literal

import zstandard

from llmstack.errors import IntegrityError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

Compression = Literal["gzip", "zstd", "xz", "bzip2"]

HEAD = 8
_MAGIC: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
)
# RFC 8878, section 3.1.2: a zstd stream may begin with a frame to be skipped (zstd:chunked layers end with one).
_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
# What one step gives at most: a bomb of a few bytes never unfolds further than its reader asks for.
_STEP = 1024 * 1024
# A larger window needs more memory than a stranger's frame should get; docker and skopeo write 8 MiB at most.
_MAX_ZSTD_WINDOW = 64 * 1024 * 1024


def sniff(head: bytes) -> Compression | None:
    """Tell how a stream is compressed by its first HEAD bytes; None for a plain tar."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "zstd" if head.startswith(_SKIPPABLE) else None


def decompressed(chunks: Iterable[bytes], what: str) -> Generator[bytes, None, None]:
    """Yield a layer's tar, in steps of 1 MiB at most where it is compressed; a plain tar passes through.

    Raises IntegrityError, which names `what`, when the stream is broken or of another compression.
    """
    source = iter(chunks)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= HEAD:
            break
    compression = sniff(head)
    stream = chain([head], source)
    try:
        if compression is None:
            yield from stream
        elif compression == "gzip":
            yield from _gunzip(stream, what)
        elif compression == "zstd":
            yield from _unzstd(stream)
        else:
            raise IntegrityError(f"{what} is compressed with {compression}, which no image layer may be")
    except (zlib.error, zstandard.ZstdError) as error:
        raise IntegrityError(f"{what} is not a sound {compression} stream: {error}") from error


def _gunzip(stream: Iterator[bytes], what: str) -> Generator[bytes, None, None]:
    """Decompress one gzip member after the other (RFC 1952, section 2.2)."""
    decoder = zlib.decompressobj(wbits=31)
    for chunk in stream:
        data = chunk
        while data:
            if decoder.eof:
                # Zeros after the last member are padding, as gzip itself takes them.
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = zlib.decompressobj(wbits=31)
            if output := decoder.decompress(data, _STEP):
                yield output
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    # Output that one more step would give is still inside when the input ended on a full step.
    while not decoder.eof and (output := decoder.decompress(b"", _STEP)):
        yield output
    if not decoder.eof:
        raise IntegrityError(f"{what} is cut off: its gzip stream has no end")


def _unzstd(stream: Iterator[bytes]) -> Generator[bytes, None, None]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    with decoder.stream_reader(io.BufferedReader(_Readable(stream), _STEP), read_across_frames=True) as reader:
        while output := reader.read(_STEP):
            yield output


class _Readable(io.RawIOBase):
    """An iterator of chunks as the file object that zstandard wants."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        if not self._rest:
            self._rest = memoryview(next(filter(None, self._chunks), b""))
        target = memoryview(buffer)
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
