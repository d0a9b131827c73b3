"""Decompression of layers as streams. The first bytes decide between gzip and zstd, not the media type."""

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
# A zstd stream may begin with a skippable frame (RFC 8878, section 3.1.2).
_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
# The most output of one step: a decompression bomb expands only as far as it is read.
_STEP = 1024 * 1024
# zlib copies the unused rest of its input at the end of every gzip member.
_INPUT = 16 * 1024
# The window is the memory that a frame needs. docker and skopeo write 8 MiB at most.
_MAX_ZSTD_WINDOW = 64 * 1024 * 1024


def sniff(head: bytes) -> Compression | None:
    """Return the compression of a stream by its first HEAD bytes; None for an uncompressed tar."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return "zstd" if head.startswith(_SKIPPABLE) else None


def decompressed(chunks: Iterable[bytes], what: str) -> Generator[bytes, None, None]:
    """Yield the tar of a layer, decompressed in steps of at most 1 MiB.

    Raises IntegrityError, which names `what`, if the stream is damaged or uses another compression.
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
            raise IntegrityError(f"{what}: {compression} is not a compression of image layers")
    except (zlib.error, zstandard.ZstdError) as error:
        raise IntegrityError(f"{what}: damaged {compression} stream: {error}") from error


def _gunzip(stream: Iterator[bytes], what: str) -> Generator[bytes, None, None]:
    """Decompress all members of a gzip stream (RFC 1952, section 2.2)."""
    decoder = zlib.decompressobj(wbits=31)
    for piece in _split(stream):
        data = piece
        while data:
            if decoder.eof:
                # gzip ignores zeros after the last member.
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = zlib.decompressobj(wbits=31)
            if output := decoder.decompress(data, _STEP):
                yield output
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
    # The decoder holds more output if the last step was full.
    while not decoder.eof and (output := decoder.decompress(b"", _STEP)):
        yield output
    if not decoder.eof:
        raise IntegrityError(f"{what}: truncated gzip stream")


def _unzstd(stream: Iterator[bytes]) -> Generator[bytes, None, None]:
    decoder = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    with decoder.stream_reader(io.BufferedReader(_Readable(stream), _STEP), read_across_frames=True) as reader:
        while output := reader.read(_STEP):
            yield output


def _split(stream: Iterable[bytes]) -> Generator[bytes, None, None]:
    for chunk in stream:
        for start in range(0, len(chunk), _INPUT):
            yield chunk[start : start + _INPUT]


class _Readable(io.RawIOBase):
    """A file object over an iterator of chunks, for zstandard."""

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
