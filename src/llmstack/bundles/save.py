"""`llmstack save`: write images into a bundle, as they stream from their source."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any, Literal

from llmstack.bundles.document import Contents, StoredBlob, short_id
from llmstack.bundles.found_images import ImagesRequest, find_images
from llmstack.bundles.hub_source import take_blob
from llmstack.bundles.known_blobs import Inventory, IsKnown, Ledger, LedgerFile, order_in, read_missing
from llmstack.bundles.save_plan import SavePlan, layout_files, plan_missing, plan_save
from llmstack.bundles.unfinished import STATE, Unfinished, check_free, check_same, complete_bundle
from llmstack.bundles.volume_plan import MAX_FAT_FILE, parse_size, plan_volumes
from llmstack.bundles.volume_writer import ReadBlob, VolumeWriter, check_largest_file, disk_errors, free_space
from llmstack.carried_image.selection import Selection
from llmstack.disk import lock_directory
from llmstack.engine.streamed_image import StreamedImage
from llmstack.errors import IntegrityError, NotFoundError, UnavailableError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import Descriptor
from llmstack.oci.store import BlobReader
from llmstack.reporting import Reporter, human_size


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """What to save: images, or with `missing`, a list that `load` wrote, these blobs only.

    `from_hub` selects the files of repos that were ferried into the directory of the bundle for it.
    """

    wanted: ImagesRequest
    missing: Path | None = None
    from_hub: Selection | None = None


@dataclass(frozen=True, slots=True)
class SaveOptions:
    """How to save.

    `have` is an inventory of the far side. With `ledger`, the bundle is recorded there; with `since`, what earlier
    bundles of the ledger sent counts as known. With `prune`, the bundle lists tags that the source no longer has.
    """

    destination: Path
    jobs: int
    volume_size: str | None = None
    have: Path | None = None
    ledger: Path | None = None
    since: bool = False
    prune: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image in a bundle, with its name in the namespace; `size` is that of its configs and layers."""

    image: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class SaveResult:
    """The result, with the fields of `save --json`. Sizes are bytes of manifests, configs and layers."""

    bundle: str | None
    status: Literal["saved", "up-to-date", "planned"]
    destination: str
    number: int | None
    volumes: int
    images: tuple[SavedImage, ...]
    deletions: tuple[str, ...]
    bytes_total: int
    bytes_written: int
    bytes_presupposed: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the object for `save --json`."""
        return asdict(self)


@dataclass
class _Save:
    """One run of save."""

    request: SaveRequest
    options: SaveOptions
    registries: Registries
    cancel: Event
    reporter: Reporter
    started: float = field(default_factory=time.monotonic)

    def run(self) -> SaveResult:
        """Write the bundle, or continue with it; raises LlmstackError."""
        directory = self.options.destination
        if self.options.dry_run:
            plan = self._plan(self._ledger(), None)
            return self._result("planned", plan, len(plan_volumes(plan.contents, _blobs(plan), self._volume_size)))
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            with disk_errors(directory):
                stack.enter_context(lock_directory(directory))
            unfinished = Unfinished.read(directory)
            if unfinished is None:
                if done := complete_bundle(directory):
                    return self._up_to_date(done.contents, done.count)
                unfinished, plan = self._begin(directory)
            else:
                check_same(directory, unfinished, self._fingerprint)
                plan = self._resume(unfinished)
            self._write(directory, unfinished, plan)
        return self._result("saved", plan, len(unfinished.volumes))

    def _begin(self, directory: Path) -> tuple[Unfinished, SavePlan]:
        check_free(directory)
        with self._locked_ledger() as ledger:
            plan = self._plan(ledger, None)
            volumes = plan_volumes(plan.contents, _blobs(plan), self._volume_size)
            if self._volume_size is None:
                self._check_space(directory, plan)
            if ledger and self.options.ledger:
                # An unfinished bundle has its number already.
                LedgerFile(self.options.ledger).write(
                    ledger.with_bundle(plan.contents, plan.graph_blobs, complete=False)
                )
        unfinished = Unfinished(self._fingerprint, tuple(volumes))
        unfinished.write(directory)
        return unfinished, plan

    def _resume(self, unfinished: Unfinished) -> SavePlan:
        contents = unfinished.contents
        done = f"{unfinished.done} of {len(unfinished.volumes)} volumes are complete"
        self.reporter.note(f"resuming bundle {short_id(contents.id)}: {done}")
        plan = self._plan(None, contents)
        if plan.contents != contents:
            raise IntegrityError(
                f"bundle {short_id(contents.id)}: the source no longer has what it had when the save began",
                hint=f"remove {self.options.destination} and save again",
            )
        return plan

    def _write(self, directory: Path, unfinished: Unfinished, plan: SavePlan) -> None:
        written = sum(piece.length for volume in unfinished.volumes[: unfinished.done] for piece in volume.pieces)
        engines = {source.reader for source in plan.sources.values() if isinstance(source.reader, StreamedImage)}
        # The engine sends an image in one stream.
        jobs = 1 if engines else self.options.jobs
        writer = VolumeWriter(_reading(plan), self.reporter, self.cancel, jobs)
        if self.request.from_hub is not None:
            manifests = {digest for digest, source in plan.sources.items() if source.is_manifest}
            # A resumed run finds the images by their manifests.
            writer.take = lambda digest, target: digest not in manifests and take_blob(directory, digest, target)
        self.reporter.begin("save", plan.bytes_to_write - written)
        try:
            for volume in unfinished.volumes[unfinished.done :]:
                files = layout_files(plan.contents.images) if volume.number == 1 else {}
                writer.write(unfinished.folder(directory, volume), volume, files)
                unfinished = unfinished.advanced()
                unfinished.write(directory)
        finally:
            self.reporter.end()
            for engine in engines:
                engine.close()
        self._record(plan)
        with disk_errors(directory):
            (directory / STATE).unlink()

    def _record(self, plan: SavePlan) -> None:
        with self._locked_ledger() as ledger:
            if ledger and self.options.ledger:
                LedgerFile(self.options.ledger).write(
                    ledger.with_bundle(plan.contents, plan.graph_blobs, complete=True)
                )

    def _up_to_date(self, contents: Contents, count: int) -> SaveResult:
        """Return the result for a complete bundle, if it is what would be saved now."""
        plan = self._plan(None, None)
        if (plan.contents.images, plan.contents.blobs) != (contents.images, contents.blobs):
            raise UsageError(
                f"{self.options.destination}: holds the complete bundle {short_id(contents.id)} of other images",
                hint="choose an empty directory: a bundle is never changed",
            )
        return self._result("up-to-date", replace(plan, contents=contents), count)

    def _plan(self, ledger: Ledger | None, resumed: Contents | None) -> SavePlan:
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        order = resumed.order if resumed else order_in(ledger, created)
        if self.request.missing:
            return plan_missing(self._missing(self.request.missing), order)
        pinned = {image.name: image.manifest.digest for image in resumed.images} if resumed else None
        images = find_images(self.request.wanted, self.registries, self.cancel, self.options.jobs, pinned)
        if resumed:
            known = {(blob.repository, blob.digest) for blob in resumed.presupposed}
            return plan_save(images, lambda *blob: blob in known, order, resumed.deletions)
        present = {image.bundled.name for image in images}
        deletions = [name for name in (ledger.images if ledger else ()) if name not in present]
        return plan_save(images, self._known(ledger), order, deletions if self.options.prune else ())

    def _known(self, ledger: Ledger | None) -> IsKnown:
        inventory = Inventory.read(self.options.have) if self.options.have else None
        sent = ledger.blobs if ledger and self.options.since else {}
        return lambda repository, digest: bool(
            (inventory and inventory.has(repository, digest)) or digest in sent.get(repository, ())
        )

    def _missing(self, path: Path) -> Generator[tuple[StoredBlob, BlobReader], None, None]:
        space = self.request.wanted.repositories(self.registries)
        for blob in read_missing(path):
            reader = space.open(blob.repository)
            if not reader.has_blob(blob.digest):
                raise NotFoundError(
                    f"{reader.name}@{blob.digest}: blob not found",
                    hint="save the complete images instead, without --since and --have",
                    side="source",
                )
            yield blob, reader

    @contextlib.contextmanager
    def _locked_ledger(self) -> Generator[Ledger | None, None, None]:
        if self.options.ledger is None:
            yield None
            return
        file = LedgerFile(self.options.ledger)
        with file.locked():
            yield file.read()

    def _ledger(self) -> Ledger | None:
        return LedgerFile(self.options.ledger).read() if self.options.ledger else None

    def _check_space(self, directory: Path, plan: SavePlan) -> None:
        largest = max((source.blob.size for source in plan.sources.values()), default=0)
        if largest > MAX_FAT_FILE:
            check_largest_file(directory, largest)
        free = free_space(directory)
        # File systems without a size report zero.
        if 0 < free < plan.bytes_to_write:
            raise UnavailableError(
                f"writing to {directory}: the bundle has {human_size(plan.bytes_to_write)}, "
                f"the disk has {human_size(free)} free",
                hint="use a larger disk, or split the bundle: --volume-size",
                side="destination",
            )

    @property
    def _volume_size(self) -> int | None:
        return parse_size(self.options.volume_size) if self.options.volume_size else None

    @property
    def _fingerprint(self) -> dict[str, Any]:
        """What must be the same in a run that resumes this one."""
        options, wanted = self.options, self.request.wanted
        return {
            "images": list(wanted.images),
            "source": wanted.source or str(wanted.namespace),
            "repo_type": wanted.repo_type,
            "from_hub": [[*hub.include], [*hub.exclude]] if (hub := self.request.from_hub) else None,
            "volume_size": options.volume_size,
            "have": _hash_of(options.have),
            "missing": _hash_of(self.request.missing),
            "ledger": options.ledger is not None,
            "since": options.since,
            "prune": options.prune,
        }

    def _result(self, status: Literal["saved", "up-to-date", "planned"], plan: SavePlan, volumes: int) -> SaveResult:
        contents = plan.contents
        return SaveResult(
            bundle=None if status == "planned" else contents.id,
            status=status,
            destination=str(self.options.destination),
            number=contents.order.number or None,
            volumes=volumes,
            images=tuple(
                SavedImage(image.name, image.manifest.digest, plan.sizes[image.name]) for image in contents.images
            ),
            deletions=contents.deletions,
            bytes_total=plan.bytes_to_write + plan.bytes_presupposed,
            bytes_written=plan.bytes_to_write if status == "saved" else 0,
            bytes_presupposed=plan.bytes_presupposed,
            seconds=round(time.monotonic() - self.started, 3),
        )


def save(
    request: SaveRequest, options: SaveOptions, registries: Registries, cancel: Event, reporter: Reporter
) -> SaveResult:
    """Save images into a bundle. Raises LlmstackError; a next run with the same arguments resumes."""
    if options.volume_size:
        parse_size(options.volume_size)
    if options.ledger and options.ledger.resolve().is_relative_to(options.destination.resolve()):
        hint = "keep it on this side, in another directory"
        raise UsageError(f"{options.ledger}: the ledger would leave with the bundle", hint=hint)
    if (options.since or options.prune) and not options.ledger:
        raise UsageError("--since and --prune require --ledger", hint="name the ledger of this far side")
    if options.prune and request.wanted.images:
        raise UsageError("--prune requires --all", hint="a bundle of some images cannot tell what is gone")
    if request.missing and (request.wanted.images or options.have or options.since or options.prune):
        raise UsageError("--missing takes no images, --have, --since and --prune", hint="leave them out")
    return _Save(request, options, registries, cancel, reporter).run()


def _reading(plan: SavePlan) -> ReadBlob:
    def read(digest: Digest, start: int) -> Generator[bytes, None, None]:
        source = plan.sources[digest]
        if source.is_manifest:
            yield source.reader.manifest(digest).data[start:]
        elif start < source.blob.size:
            yield from source.reader.read_blob(source.blob, start)

    return read


def _blobs(plan: SavePlan) -> list[Descriptor]:
    return [source.blob for source in plan.sources.values()]


def _hash_of(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise NotFoundError(f"{path}: cannot be read: {error.strerror}") from error
