"""`llmstack extract`: open an image and write its files to a directory or a Hugging Face cache."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FORMAT_2, MODELS_ROOT, ROOT, FileIndex
from llmstack.carried_image.image import FileTar, OpenedImage
from llmstack.carried_image.image_location import locate
from llmstack.carried_image.naming import Namespace, tag_for
from llmstack.carried_image.open_location import open_requested
from llmstack.carried_image.selection import NO_SELECTION, Selection, select
from llmstack.errors import NotFoundError, UsageError
from llmstack.extraction.destination import Destination
from llmstack.extraction.destination_layout import CacheLayout, DestinationLayout, DirectoryLayout
from llmstack.extraction.fetch_plan import PlannedFile, case_conflicts
from llmstack.extraction.from_index import ExtractContext, fetch
from llmstack.extraction.from_layers import LayerSource, merge_layers
from llmstack.extraction.from_tars import fetch_from_tars
from llmstack.hf.cache_layout import default_cache
from llmstack.hf.snapshot import RepoType
from llmstack.oci.repository import Registries
from llmstack.oci.tar_reader import TarReader
from llmstack.reporting import Reporter

if TYPE_CHECKING:
    from llmstack.signing.check import TrustedImage
    from llmstack.signing.trust import Trust

DEFAULT_JOBS = 4


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """What to extract, and the destination.

    `argument` is `REPO_ID[@REVISION]|IMAGE`, `source` the value of `--from`. `destination` None: HF_HUB_CACHE, for
    `layout` "hf-cache" only. With `trust`, the image must be signed; `bundle` writes the signature of its files, too.
    """

    argument: str
    destination: Path | None
    namespace: Namespace
    source: str | None = None
    repo_type: RepoType = "model"
    selection: Selection = NO_SELECTION
    layout: Literal["dir", "hf-cache"] = "dir"
    jobs: int = DEFAULT_JOBS
    trust: Trust | None = None
    bundle: bool = False


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """What was extracted. Sizes are bytes of files; `bytes_reused` counts those that existed before.

    `destination` is the directory of the files; in a cache, the snapshot's. `repo_id` and `commit` are None for images
    without a file index. `signed_by` are the trusted signers, if trust was asked for.
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
    signed_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what `extract --json` prints."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


def extract(request: ExtractRequest, registries: Registries, cancel: Event, reporter: Reporter) -> ExtractResult:
    """Extract an image's files. A rerun resumes, and skips complete files.

    `cancel` is the HTTP client's event; it is set when one of several transfers fails. Raises LlmstackError.
    """
    started = time.monotonic()
    directory = _destination(request)
    image_request = locate(request.argument, request.source, request.repo_type, request.namespace)
    _check_bundle(request)
    # The Docker Engine keeps no signatures.
    with open_requested(image_request, registries, reporter.note, prefer_engine=request.trust is None) as image:
        trusted = _check_trust(image, request.trust) if request.trust else None
        extraction = _Extraction(request, image, cancel, reporter, started, trusted)
        if image.index is None:
            return extraction.from_layers(directory)
        return extraction.from_index(directory, image.index)


def _check_bundle(request: ExtractRequest) -> None:
    if not request.bundle:
        return
    if request.trust is None:
        raise UsageError("--bundle needs --trust", hint="add --trust KEY.pub")
    if request.layout != "dir" or request.selection != NO_SELECTION:
        raise UsageError(
            "--bundle excludes --include, --exclude and --layout hf-cache",
            hint="verifiers of model.sig accept a directory with exactly the signed files only",
        )


def _check_trust(image: OpenedImage, trust: Trust) -> TrustedImage:
    # Imported late: cryptography is for those who ask for trust.
    from llmstack.signing.check import check_image

    return check_image(image, trust)


def _destination(request: ExtractRequest) -> Path:
    if request.destination is not None:
        return request.destination
    if request.layout == "dir":
        raise UsageError("no destination directory", hint="name one after the image, or use --layout hf-cache")
    return default_cache()


@dataclass(frozen=True, slots=True)
class _Extraction:
    """One extraction from an opened source."""

    request: ExtractRequest
    image: OpenedImage
    cancel: Event
    reporter: Reporter
    started: float
    trusted: TrustedImage | None = None

    def from_index(self, directory: Path, index: FileIndex) -> ExtractResult:
        """Fetch the selected files that the destination does not hold yet."""
        files = select(index.files, self.request.selection, lambda file: file.path)
        if not files:
            raise self._nothing(bool(index.files))
        if self.request.layout == "hf-cache" and not self.image.confirmed:
            raise self._unconfirmed(index)
        layout: DestinationLayout = (
            CacheLayout(directory, index) if self.request.layout == "hf-cache" else DirectoryLayout(directory)
        )
        ranges = self.image.ranges_of(files)
        # Write each path once, even if several files share it.
        planned = list({path: PlannedFile(path, file) for file in files for path in [layout.path_of(file)]}.values())
        total = sum(file.size for file in planned)
        with self._context(layout.directory, total) as context:
            self._warn_of_case_conflicts((file.path for file in planned), context.destination)
            # Fail before anything is hashed or fetched.
            layout.check(context.destination, files)
            for file in planned:
                context.destination.check_path(file.path)
            missing = context.missing(planned)
            reused = total - sum(file.size for file in missing)
            if ranges is None:
                fetch_from_tars(self.image, missing, context)
            else:
                reused += fetch(ranges.reader, ranges.layers, missing, context)
            layout.finish(context.destination, files)
            self._write_bundle(context.destination, index)
        return self._result(str(layout.result), len(files), total, reused, index)

    def _write_bundle(self, destination: Destination, index: FileIndex) -> None:
        if not self.request.bundle or self.trusted is None or self.trusted.model_bundle is None:
            return
        from llmstack.signing.statement import SIGNATURE_FILE

        if any(file.path == SIGNATURE_FILE for file in index.files):
            raise UsageError(f"{self.image.name}: the repo has its own {SIGNATURE_FILE}", hint="leave --bundle out")
        destination.write(SIGNATURE_FILE, [self.trusted.model_bundle])

    def from_layers(self, directory: Path) -> ExtractResult:
        """Merge the layers of an image without a file index."""
        if self.request.layout == "hf-cache":
            raise UsageError(
                f"{self.image.name} has no file index, which a Hugging Face cache needs",
                hint="use --layout dir; only carried images have a file index",
                side="source",
            )
        labels = self.image.labels
        if annotation_keys.SPLIT in labels or labels.get(annotation_keys.FORMAT) == FORMAT_2:
            self.reporter.warn(
                f"{self.image.name} was built on a carried image with split files, which are left out: "
                "extract the carried image to get them"
            )
        tars = self.image.layer_tars()
        with self._context(directory, sum(tar.size for tar in tars)) as context:
            # Other images keep their files in /REPO, whatever they have in /models.
            stored_in = MODELS_ROOT if labels.get(annotation_keys.REPO_TYPE) == "model" else ROOT
            layers = [self._layer(tar) for tar in tars]
            merged = merge_layers(layers, self.request.selection, context, stored_in)
            self._warn_of_case_conflicts(merged.paths, context.destination)
        if merged.dangling:
            self.reporter.warn(
                f"{len(merged.dangling)} dangling symbolic links were left out: {merged.dangling[0]!r} …"
            )
        return self._result(str(directory), len(merged.paths), merged.size, 0, None)

    def _layer(self, tar: FileTar) -> LayerSource:
        """Return a layer whose reading reports its progress."""

        @contextmanager
        def opened() -> Iterator[TarReader]:
            task = self.reporter.task(tar.name, tar.size)
            try:
                with tar.open(task.advance) as reader:
                    yield reader
            finally:
                task.done()

        return LayerSource(f"{self.image.name}: {tar.name}", opened)

    @contextmanager
    def _context(self, directory: Path, total: int) -> Iterator[ExtractContext]:
        with Destination(directory, self.reporter.warn) as destination:
            self.reporter.begin(self.image.name, total)
            try:
                yield ExtractContext(destination, self.reporter, self.cancel, self.request.jobs)
            finally:
                self.reporter.end()

    def _warn_of_case_conflicts(self, paths: Iterable[str], destination: Destination) -> None:
        groups = case_conflicts(paths)
        if groups and destination.ignores_case():
            names = ", ".join(repr(path) for path in groups[0])
            self.reporter.warn(f"the file system ignores case, so these names are one file, and one is lost: {names}")

    def _unconfirmed(self, index: FileIndex) -> UsageError:
        if self.image.confirmed is None:
            reason = "no tag does"
            hint = "name the repo: llmstack extract OWNER/NAME --from SOURCE --layout hf-cache"
        else:
            reason = "its tag or repository does not"
            name = f"{index.repo_type}s:{tag_for(index.repo_id, index.revision)}"
            hint = f"use --layout dir, or give the image its repo's name, …/{name}"
        return UsageError(
            f"{self.image.name}: its file index claims the {index.claim}, {reason}, "
            "so it is not written into the cache of that repo",
            hint=hint,
            side="source",
        )

    def _nothing(self, has_files: bool) -> NotFoundError:
        if not has_files:
            return NotFoundError(f"{self.image.name} holds no files", side="source")
        return NotFoundError(
            f"no file of {self.image.name} is selected by --include and --exclude",
            hint=f"list its files: llmstack inspect {self.image.name}",
            side="source",
        )

    def _result(self, directory: str, files: int, total: int, reused: int, index: FileIndex | None) -> ExtractResult:
        return ExtractResult(
            repo_id=index.repo_id if index and self.image.confirmed is not False else None,
            image=self.image.name,
            commit=index.commit if index and self.image.confirmed is not False else None,
            destination=directory,
            files=files,
            bytes_total=total,
            bytes_written=total - reused,
            bytes_reused=reused,
            seconds=time.monotonic() - self.started,
            signed_by=self.trusted.signed_by if self.trusted else (),
        )
