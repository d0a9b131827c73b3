"""Reading a range of one file out of the layers that hold it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from llmstack.carried_image.file_index import IndexedFile, extents
from llmstack.hub_server.error_answers import needs_extract
from llmstack.hub_server.repos import Files, Revision


def check_readable(revision: Revision, files: Files, file: IndexedFile) -> None:
    """Raise AnswerError where a file lies in a compressed layer."""
    if any(files.layers[layer].compressed for layer in file.layers):
        raise needs_extract(revision.repo_id, file.path, revision.image)


def read_range(
    revision: Revision, files: Files, file: IndexedFile, start: int, stop: int
) -> Generator[bytes, None, None]:
    """Yield `file[start:stop]` as it comes from the layers; closing the generator ends the transfer.

    Raises AnswerError where the file lies in a compressed layer, NotFoundError, IntegrityError, NotAuthorizedError,
    UnavailableError.
    """
    check_readable(revision, files, file)
    for extent in extents(file, start, stop - start):
        blob = files.layers[extent.layer].blob
        with closing(revision.reader.read_blob(blob, extent.offset, extent.offset + extent.size)) as chunks:
            yield from chunks
