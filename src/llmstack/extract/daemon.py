"""Extracting out of an image that the local Docker engine holds."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from llmstack.carried.fileindex import ROOT
from llmstack.carried.parallel import run_all
from llmstack.engine.daemon import DaemonImage
from llmstack.errors import IntegrityError
from llmstack.extract.indexed import Worker
from llmstack.extract.merged import LayerSource
from llmstack.extract.plan import PlannedFile
from llmstack.net import Cancelled
from llmstack.oci.untar import TarEntry, TarReader

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
    if whole or len(files) > _FEW:
        _fetch_stream(image, files, worker)
    else:
        run_all(lambda file: _fetch_one(image, file, worker), files, worker.jobs, worker.cancel)


def _fetch_one(image: DaemonImage, file: PlannedFile, worker: Worker) -> None:
    with image.open_tar(f"/{ROOT}/{file.name}") as reader:
        for entry in reader:
            if entry.kind == "file":
                _write(reader, entry, file, worker)
                return
    raise _missing(image, file.name)


def _fetch_stream(image: DaemonImage, files: Iterable[PlannedFile], worker: Worker) -> None:
    wanted = {f"{ROOT}/{file.name}": file for file in files}
    with image.open_tar(f"/{ROOT}") as reader:
        for entry in reader:
            file = wanted.pop(posixpath.normpath(entry.name), None) if entry.kind == "file" else None
            if file:
                _write(reader, entry, file, worker)
            if not wanted:
                return
    raise _missing(image, next(iter(wanted)))


def _write(reader: TarReader, entry: TarEntry, file: PlannedFile, worker: Worker) -> None:
    if entry.size != file.size:
        raise IntegrityError(f"{file.path!r} is {entry.size} bytes long in the image, not {file.size}", side="source")
    task = worker.reporter.task(file.path, file.size)
    try:
        with worker.destination.part(file.key) as part:
            part.restart()
            for piece in reader.content():
                if worker.cancel.is_set():
                    raise Cancelled("cancelled")
                part.write(piece)
                task.advance(len(piece))
            worker.store(file, part)
    finally:
        task.done()


def _missing(image: DaemonImage, name: str) -> IntegrityError:
    return IntegrityError(f"{image.name} does not hold {name!r}, which its file index lists", side="source")
