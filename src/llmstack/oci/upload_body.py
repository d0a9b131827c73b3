"""The body of an upload, hashed while it is sent."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator

from llmstack.net.network_errors import ConnectionClosedError
from llmstack.stream_hash import StreamHash


class HashedStream:
    """Iterates over chunks once and hashes them.

    If the chunks raise an exception, the iteration just ends, so that the registry answers and the session can be
    cancelled: a session cannot be cancelled during a request. `check` raises the exception, before the commit.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._complete = False
        self.digest = StreamHash()
        self.size = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self.digest.update(chunk)
                self.size += len(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
        else:
            self._complete = True

    def close(self) -> None:
        """Close the source of the chunks if it is a generator."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()

    def check(self, what: str) -> None:
        """Raise what the chunks raised; ConnectionClosedError if not all of them were sent."""
        if self.error:
            raise self.error
        if not self._complete:
            raise ConnectionClosedError(f"{what}: the registry answered before the end of the upload")
