"""`llmstack extract`: from what a person named to files in a folder or in a Hugging Face cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

from llmstack.carried_image.file_index import FORMAT_OF_PARTS, NO_SELECTION, FileIndex, Selection
from llmstack.carried_image.image import FORMAT_LABEL, Image
from llmstack.carried_image.locate import locate
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.selection import select
from llmstack.carried_image.source import Source, open_source
from llmstack.engine.engine_image import DaemonImage
from llmstack.errors import NotFoundError, UsageError
from llmstack.extraction.destination import Destination
from llmstack.extraction.destination_layout import CacheLayout, DestinationLayout, FolderLayout
from llmstack.extraction.fetch_plan import PlannedFile, folded
from llmstack.extraction.from_engine import daemon_layer, fetch_from_engine
from llmstack.extraction.from_index import Worker, fetch
from llmstack.extraction.from_layers import LayerSource, extract_merged
from llmstack.hf.cache_layout import default_cache
from llmstack.hf.snapshot import RepoType
from llmstack.oci.repository import Registries
from llmstack.oci.tar_reader import TarReader, open_layer
from llmstack.reporting import Reporter

DEFAULT_JOBS = 4


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """What to extract and where to.

    `argument` is `REPO_ID[@REVISION]|IMAGE`, `source` what `--from` says. `destination` may be left out for a cache:
    it is HF_HUB_CACHE then.
    """

    argument: str
    destination: Path | None
    namespace: Namespace
    source: str | None = None
    repo_type: RepoType = "model"
    selection: Selection = NO_SELECTION
    layout: Literal["dir", "hf-cache"] = "dir"
    jobs: int = DEFAULT_JOBS


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """What was extracted; sizes are bytes of files, `bytes_reused` those that were there already.

    `destination` is the folder that the files are in (of a cache, the snapshot). `repo_id` and `commit` are None for
    images that llmstack did not write.
    """

    repo_id: str | None
    image: str
    commit: str | None
    destination: str
    files: int
    bytes_total: int
    bytes_written: int
    bytes_reused: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return what `extract --json` prints."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def extract(request: ExtractRequest, registries: Registries, cancel: Event, reporter: Reporter) -> ExtractResult:
    """Get an image's files out; a rerun continues, and skips what is whole.

    `cancel` is the HTTP client's: it is set when one of several transfers fails. Raises LlmstackError.
    """
    started = time.monotonic()
    folder = _destination(request)
    wanted = locate(request.argument, request.source, request.repo_type, request.namespace)
    with open_source(wanted, registries, reporter.note) as source:
        work = _Work(request, source, cancel, reporter, started)
        return work.merged(folder) if source.index is None else work.indexed(folder, source.index)


def _destination(request: ExtractRequest) -> Path:
    if request.destination is not None:
        return request.destination
    if request.layout == "dir":
        raise UsageError("no folder to extract into", hint="name one after the image, or use --layout hf-cache")
    return default_cache()


@dataclass(frozen=True, slots=True)
class _Work:
    """One extraction, its source open."""

    request: ExtractRequest
    source: Source
    cancel: Event
    reporter: Reporter
    started: float

    def indexed(self, folder: Path, index: FileIndex) -> ExtractResult:
        """Fetch just the files that are wanted and not there, each by the range that the file index tells."""
        files = select(index.files, self.request.selection, lambda file: file.path)
        if not files:
            raise self._nothing(bool(index.files))
        layout: DestinationLayout = (
            CacheLayout(folder, index) if self.request.layout == "hf-cache" else FolderLayout(folder)
        )
        image = self.source.image
        layers = {} if isinstance(image, DaemonImage) else image.layers_of(files)
        # Each place once, whatever number of files share it.
        planned = list({path: PlannedFile(path, file) for file in files for path in [layout.place(file)]}.values())
        total = sum(file.size for file in planned)
        with self._worker(layout.folder, total) as worker:
            self._warn_of_case((file.path for file in planned), worker.destination)
            # What is in the way is told before anything is hashed or fetched.
            layout.check(worker.destination, files)
            for file in planned:
                worker.destination.check(file.path)
            missing = worker.missing(planned)
            reused = total - sum(file.size for file in missing)
            if isinstance(image, DaemonImage):
                fetch_from_engine(image, missing, worker, whole=2 * (total - reused) >= index.size)
            else:
                reused += fetch(image.reader, layers, missing, worker)
            layout.finish(worker.destination, files)
        return self._result(str(layout.result), len(files), total, reused, index)

    def merged(self, folder: Path) -> ExtractResult:
        """Merge the layers of an image that has no file index."""
        if self.request.layout == "hf-cache":
            raise UsageError(
                f"{self.source.name} has no file index, which a Hugging Face cache needs",
                hint="only images carried by llmstack ferry have one; use --layout dir",
                side="source",
            )
        image = self.source.image
        labels = image.labels if isinstance(image, DaemonImage) else image.config.labels
        if labels.get(FORMAT_LABEL) == FORMAT_OF_PARTS:
            self.reporter.warn(
                f"{self.source.name} was built on a carried image with files in parts, which are left out: "
                "extract that image itself for them"
            )
        if isinstance(image, DaemonImage):
            layers, size = [daemon_layer(image)], 0
        else:
            size = sum(layer.size for layer in image.manifest.layers)
            layers = self._layers(image)
        with self._worker(folder, size) as worker:
            merged = extract_merged(layers, self.request.selection, worker)
            self._warn_of_case(merged.paths, worker.destination)
        if merged.dangling:
            self.reporter.warn(
                f"{len(merged.dangling)} links lead to nothing and were left out: {merged.dangling[0]!r} …"
            )
        return self._result(str(folder), len(merged.paths), merged.size, 0, None)

    def _layers(self, image: Image) -> list[LayerSource]:
        """Return the layers from the highest down, each telling its progress."""
        blobs = image.manifest.layers

        def source(number: int) -> LayerSource:
            blob, name = blobs[number], f"layer {number + 1} of {len(blobs)}"

            @contextmanager
            def opened() -> Iterator[TarReader]:
                task = self.reporter.task(name, blob.size)
                try:
                    with open_layer(image.reader, blob, task.advance) as reader:
                        yield reader
                finally:
                    task.done()

            return LayerSource(f"{self.source.name}: {name}", opened)

        return [source(number) for number in reversed(range(len(blobs)))]

    @contextmanager
    def _worker(self, folder: Path, total: int) -> Iterator[Worker]:
        with Destination(folder, self.reporter.warn) as destination:
            self.reporter.begin(self.source.name, total)
            try:
                yield Worker(destination, self.reporter, self.cancel, self.request.jobs)
            finally:
                self.reporter.end()

    def _warn_of_case(self, paths: Iterable[str], destination: Destination) -> None:
        groups = folded(paths)
        if groups and destination.folds_case():
            names = ", ".join(repr(path) for path in groups[0])
            self.reporter.warn(f"this disk takes names that differ only in case for the same: {names}; one is lost")

    def _nothing(self, has_files: bool) -> NotFoundError:
        if not has_files:
            return NotFoundError(f"{self.source.name} holds no files", side="source")
        return NotFoundError(
            f"no file of {self.source.name} is selected by --include and --exclude",
            hint="see what it holds: llmstack inspect",
            side="source",
        )

    def _result(self, folder: str, files: int, total: int, reused: int, index: FileIndex | None) -> ExtractResult:
        return ExtractResult(
            repo_id=index.repo_id if index else None,
            image=self.source.name,
            commit=index.commit if index else None,
            destination=folder,
            files=files,
            bytes_total=total,
            bytes_written=total - reused,
            bytes_reused=reused,
            seconds=time.monotonic() - self.started,
        )
