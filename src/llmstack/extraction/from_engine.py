"""Extract files from an image in the local Docker Engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from llmstack.carried_image.file_index import ROOT
from llmstack.engine.engine_image import EngineImage
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.extraction.fetch_plan import PlannedFile
from llmstack.extraction.from_index import ExtractContext
from llmstack.extraction.from_layers import LayerSource
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.tar_reader import TarEntry, TarReader

# Each single file costs a request to the engine. For more files than this, one stream is faster.
_MAX_SINGLE_FILES = 32


def merged_layer(image: EngineImage) -> LayerSource:
    """Return /REPO as a single layer: the engine has merged the layers."""

    @contextmanager
    def open_all() -> Iterator[TarReader]:
        with image.open_tar(f"/{ROOT}") as reader:
            yield reader

    return LayerSource(image.name, open_all)


def fetch_from_engine(
    image: EngineImage, files: Sequence[PlannedFile], context: ExtractContext, *, stream: bool
) -> None:
    """Write and verify files. With `stream`, read all of /REPO in one request.

    Raises IntegrityError if a file is missing in the image or has other bytes.
    """
    context.destination.require_space(sum(file.size for file in files))
    single = [file for file in files if file.file.is_split]
    if stream or len(files) > _MAX_SINGLE_FILES:
        _fetch_stream(image, [file for file in files if not file.file.is_split], context)
    else:
        single = list(files)
    run_all(lambda file: _fetch_one(image, file, context), single, context.jobs, context.cancel)


def _fetch_one(image: EngineImage, file: PlannedFile, context: ExtractContext) -> None:
    """Fetch one file, or all parts of a split file in order."""
    with _writing(file, context) as write:
        for number, part in enumerate(file.file.ranges):
            path = file.file.part_path(number)
            with _opened(image, path) as reader:
                entry = next((entry for entry in reader if entry.kind == "file"), None)
                if entry is None:
                    raise _missing(image, path)
                write(reader, entry, part.size)


def _fetch_stream(image: EngineImage, files: Iterable[PlannedFile], context: ExtractContext) -> None:
    missing = {f"{ROOT}/{file.file.path}": file for file in files}
    if not missing:
        return
    with _opened(image, ROOT) as reader:
        for entry in reader:
            file = missing.pop(entry.path, None) if entry.kind == "file" else None
            if file:
                with _writing(file, context) as write:
                    write(reader, entry, file.size)
            if not missing:
                return
    raise _missing(image, next(iter(missing)))


@contextmanager
def _opened(image: EngineImage, path: str) -> Iterator[TarReader]:
    """Open a path that the file index lists; raises IntegrityError if it does not exist."""
    try:
        with image.open_tar(f"/{path}") as reader:
            yield reader
    except NotFoundError as error:
        raise _missing(image, path) from error


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


def _missing(image: EngineImage, name: str) -> IntegrityError:
    return IntegrityError(f"{image.name}: the file index lists {name!r}, which the image does not hold", side="source")
