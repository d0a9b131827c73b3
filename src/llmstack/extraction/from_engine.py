"""Extracting out of an image that the local Docker engine holds."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from llmstack.carried_image.file_index import ROOT
from llmstack.engine.engine_image import DaemonImage
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.extraction.fetch_plan import PlannedFile
from llmstack.extraction.from_index import Worker
from llmstack.extraction.from_layers import LayerSource
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.tar_reader import TarEntry, TarReader

# Each file that is asked for alone costs the engine a request; more than these come quicker in one stream.
_FEW = 32


def daemon_layer(image: DaemonImage) -> LayerSource:
    """Return the whole of /REPO as if it were one layer: the engine has merged what lies below."""

    @contextmanager
    def open_all() -> Iterator[TarReader]:
        with image.open_tar(f"/{ROOT}") as reader:
            yield reader

    return LayerSource(image.name, open_all)


def fetch_from_engine(image: DaemonImage, files: Sequence[PlannedFile], worker: Worker, *, whole: bool) -> None:
    """Write files, each verified; `whole` says that these are the most of what the image holds.

    Raises IntegrityError if the image does not hold one of them, or holds other bytes.
    """
    worker.destination.require(sum(file.size for file in files))
    alone = [file for file in files if file.file.is_split]
    if whole or len(files) > _FEW:
        _fetch_stream(image, [file for file in files if not file.file.is_split], worker)
    else:
        alone = list(files)
    run_all(lambda file: _fetch_one(image, file, worker), alone, worker.jobs, worker.cancel)


def _fetch_one(image: DaemonImage, file: PlannedFile, worker: Worker) -> None:
    """Fetch a file by itself, or all parts of one, one after the other."""
    with _writing(file, worker) as write:
        for number, part in enumerate(file.file.ranges):
            path = file.file.part_path(number)
            with _opened(image, path) as reader:
                entry = next((entry for entry in reader if entry.kind == "file"), None)
                if entry is None:
                    raise _missing(image, path)
                write(reader, entry, part.size)


def _fetch_stream(image: DaemonImage, files: Iterable[PlannedFile], worker: Worker) -> None:
    wanted = {f"{ROOT}/{file.file.path}": file for file in files}
    if not wanted:
        return
    with _opened(image, ROOT) as reader:
        for entry in reader:
            file = wanted.pop(posixpath.normpath(entry.name), None) if entry.kind == "file" else None
            if file:
                with _writing(file, worker) as write:
                    write(reader, entry, file.size)
            if not wanted:
                return
    raise _missing(image, next(iter(wanted)))


@contextmanager
def _opened(image: DaemonImage, path: str) -> Iterator[TarReader]:
    """Open what the file index says is there; raises IntegrityError if it is not."""
    try:
        with image.open_tar(f"/{path}") as reader:
            yield reader
    except NotFoundError as error:
        raise _missing(image, path) from error


@contextmanager
def _writing(file: PlannedFile, worker: Worker) -> Iterator[Callable[[TarReader, TarEntry, int], None]]:
    """Give a function that writes what a tar's entry holds, which must be so long; in the end the file is checked."""
    task = worker.reporter.task(file.path, file.size)
    try:
        with worker.destination.part(file.key) as part:
            part.restart()

            def write(reader: TarReader, entry: TarEntry, size: int) -> None:
                if entry.size != size:
                    raise IntegrityError(
                        f"{entry.name!r} is {entry.size} bytes long in the image, not {size}", side="source"
                    )
                for piece in reader.content():
                    if worker.cancel.is_set():
                        raise Cancelled("cancelled")
                    part.write(piece)
                    task.advance(len(piece))

            yield write
            worker.store(file, part)
    finally:
        task.done()


def _missing(image: DaemonImage, name: str) -> IntegrityError:
    return IntegrityError(f"{image.name} does not hold {name!r}, which its file index lists", side="source")
