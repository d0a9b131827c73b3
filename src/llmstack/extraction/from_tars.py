"""Extract files that can only be streamed, as the Docker Engine does: from tars, not by range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from llmstack.carried_image.image import FileTar, OpenedImage
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.extraction.fetch_plan import PlannedFile
from llmstack.extraction.from_index import ExtractContext
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.tar_reader import TarEntry, TarReader


def fetch_from_tars(image: OpenedImage, files: Sequence[PlannedFile], context: ExtractContext) -> None:
    """Write and verify files of an image that cannot be read by range.

    Raises IntegrityError if a file is missing in the image or has other bytes.
    """
    context.destination.require_space(sum(file.size for file in files))
    planned = {file.file.path: file for file in files}

    def fetch_group(group: tuple[FileTar, ...]) -> None:
        if len(group) > 1:
            _fetch_split(image, group, planned, context)
        else:
            _fetch_tar(image, group[0], planned, context)

    run_all(fetch_group, image.file_tars([file.file for file in files]), context.jobs, context.cancel)


def _fetch_split(
    image: OpenedImage, group: Sequence[FileTar], planned: Mapping[str, PlannedFile], context: ExtractContext
) -> None:
    """Fetch all parts of one split file in order."""
    [[file]] = group[0].files.values()
    with _writing(planned[file.path], context) as write:
        for tar, part in zip(group, file.ranges, strict=True):
            with _opened(image, tar) as reader:
                entry = next((entry for entry in reader if entry.kind == "file"), None)
                if entry is None:
                    raise _missing(image, tar.name)
                write(reader, entry, part.size)


def _fetch_tar(image: OpenedImage, tar: FileTar, planned: Mapping[str, PlannedFile], context: ExtractContext) -> None:
    missing = {path: planned[file.path] for path, [file] in tar.files.items()}
    with _opened(image, tar) as reader:
        for entry in reader:
            file = missing.pop(entry.path, None) if entry.kind == "file" else None
            if file:
                with _writing(file, context) as write:
                    write(reader, entry, file.size)
            if not missing:
                return
    raise _missing(image, next(iter(missing)))


@contextmanager
def _opened(image: OpenedImage, tar: FileTar) -> Iterator[TarReader]:
    """Open a tar of files that the file index lists; raises IntegrityError if it does not exist."""
    try:
        with tar.open(lambda _: None) as reader:
            yield reader
    except NotFoundError as error:
        raise _missing(image, tar.name) from error


@contextmanager
def _writing(file: PlannedFile, context: ExtractContext) -> Iterator[Callable[[TarReader, TarEntry, int], None]]:
    """Yield a function that writes a tar entry of a given size. Verify and publish the file at the end."""
    task = context.reporter.task(file.path, file.size)
    try:
        with context.partial(file) as partial:
            partial.restart()

            def write(reader: TarReader, entry: TarEntry, size: int) -> None:
                if entry.size != size:
                    raise IntegrityError(
                        f"{entry.name!r} has {entry.size} bytes in the image, not {size}", side="source"
                    )
                for piece in reader.content():
                    if context.cancel.is_set():
                        raise Cancelled("cancelled")
                    partial.write(piece)
                    task.advance(len(piece))

            yield write
            context.publish(file, partial)
    finally:
        task.done()


def _missing(image: OpenedImage, name: str) -> IntegrityError:
    return IntegrityError(f"{image.name}: the file index lists {name!r}, which the image does not hold", side="source")
