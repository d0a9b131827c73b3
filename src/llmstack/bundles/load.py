"""`llmstack load`: read bundles into a namespace, in the order in which they were made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

from llmstack.bundles.document import BundledImage, Contents, StoredBlob, short_id
from llmstack.bundles.engine_target import EngineTarget
from llmstack.bundles.known_blobs import write_missing
from llmstack.bundles.load_plan import ImageDecision, ImageStatus, decide, order_bundles
from llmstack.bundles.load_records import Staging, TagRecord, staged_pieces
from llmstack.bundles.target import Target
from llmstack.bundles.volume_reader import BundleReader, OpenedVolume, StoredPiece, find_volumes
from llmstack.carried_image.image_location import EngineNamespace
from llmstack.carried_image.naming import Namespace
from llmstack.errors import EXIT_BUG, InternalError, LlmstackError, NotFoundError
from llmstack.net.parallel import run_all
from llmstack.oci.graph import ImageGraph, read_graph
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.reporting import Reporter
from llmstack.settings import DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load.

    With `allow_older`, tags of newer bundles are replaced; with `prune`, tags are deleted that the bundle lists as gone
    at its source. `missing` is where the list of blobs goes that the target lacks. `lists` is the get_hf directory
    whose catalogue is updated.
    """

    jobs: int
    allow_older: bool = False
    prune: bool = False
    missing: Path | None = None
    lists: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class LoadedImage:
    """An image of a bundle: its name in the target, and what was done with it."""

    image: str
    digest: str
    status: ImageStatus


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The result for one bundle, with the fields of `load --json`. Sizes are bytes of configs and layers.

    `bundle` is None for a volume that is too damaged to tell.
    `wanted` are the numbers of the volumes that are still needed, `missing` the digests that the target lacks.
    `deletions` are the tags that are gone at the source; they were deleted if `pruned`.
    """

    bundle: str | None
    number: int | None
    created: str
    status: Literal["loaded", "up-to-date", "planned", "incomplete", "failed"]
    volumes: int
    images: tuple[LoadedImage, ...] = ()
    wanted: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    deletions: tuple[str, ...] = ()
    pruned: bool = False
    bytes_total: int = 0
    bytes_transferred: int = 0
    seconds: float = 0.0
    error: str | None = None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the object for `load --json`."""
        value = asdict(self)
        del value["exit_code"]
        return value


class _RefusedError(NotFoundError):
    """The bundle cannot be loaded yet; `result` has what is known."""

    def __init__(self, message: str, hint: str, result: LoadResult) -> None:
        super().__init__(message, hint=hint)
        self.result = result


@dataclass
class _Load:
    """Loads one bundle."""

    contents: Contents
    volumes: Sequence[OpenedVolume]
    target: Target | EngineTarget
    options: LoadOptions
    cancel: Event
    reporter: Reporter
    started: float = field(default_factory=time.monotonic)

    def run(self) -> LoadResult:
        """Load the bundle; raises LlmstackError, and no tag of it is written then."""
        records = self.target.records.read()
        current = self.target.current(self.contents.images, self.options.jobs, self.cancel)
        decisions = decide(self.contents, current, records, allow_older=self.options.allow_older)
        to_load = [decision.image for decision in decisions if decision.status == "planned"]
        deletions = tuple(name for name in self.contents.deletions if self._may_delete(name, records))
        deletions = tuple(self.target.existing(deletions))
        if not to_load and not self.contents.blobs:
            status: Literal["planned", "up-to-date"] = "planned" if self.options.dry_run else "up-to-date"
            return self._finish(status, decisions, deletions, 0, 0)
        reader = self._reader()
        graphs = run_all(
            lambda image: read_graph(reader, reader.manifest(image.manifest.digest)),
            to_load,
            self.options.jobs,
            self.cancel,
        )
        needed = self._needed(to_load, graphs)
        absent = self.target.without(needed, self.options.jobs, self.cancel)
        missing = [blob for blob in absent if not reader.holds(blob.digest)]
        if missing:
            self._refuse_missing(missing)
        total = sum({blob.digest: blob.size for blob in needed}.values())
        sent = sum({blob.digest: blob.size for blob in absent}.values())
        if self.options.dry_run:
            return self._finish("planned", decisions, deletions, total, sent)
        self.reporter.begin(reader.name, sent)
        try:
            self.target.upload(absent, reader, self.options.jobs, self.cancel, self.reporter)
        finally:
            self.reporter.end()
        for image, graph in zip(to_load, graphs, strict=True):
            self.target.write_manifests(image, graph, reader)
        return self._finish("loaded", decisions, deletions, total, sent)

    def _finish(
        self,
        status: Literal["loaded", "up-to-date", "planned"],
        decisions: Sequence[ImageDecision],
        deletions: tuple[str, ...],
        total: int,
        sent: int,
    ) -> LoadResult:
        """Write the record and then the tags, unless nothing is to be written."""
        if status != "planned":
            named = {
                decision.image.name: decision.image.manifest.digest
                for decision in decisions
                if decision.image.tag and decision.status != "older"
            }
            if named:
                self.target.records.add(self.contents, named)
            for decision in decisions:
                if decision.status == "planned" and decision.image.tag:
                    self.target.tag(decision.image)
            if self.options.prune and deletions:
                self.target.delete(deletions, self.reporter)
            self.target.remove_staging(self.contents)
        done: ImageStatus = "planned" if status == "planned" else "loaded"
        images = tuple(
            LoadedImage(
                self.target.name_of(decision.image),
                decision.image.manifest.digest,
                done if decision.status == "planned" else decision.status,
            )
            for decision in decisions
        )
        pruned = self.options.prune and bool(deletions) and status != "planned"
        return replace(
            self.result(status),
            images=images,
            deletions=deletions,
            pruned=pruned,
            bytes_total=total,
            bytes_transferred=0 if status == "planned" else sent,
        )

    def _may_delete(self, name: str, records: Mapping[str, TagRecord]) -> bool:
        """Tell whether a newer bundle has not brought the tag back."""
        record = records.get(name)
        return record is not None and not self.contents.order.is_before(record.order)

    def _reader(self) -> BundleReader:
        """Return a reader of all volumes; if some are missing, stage those that were given and refuse."""
        target = self.target
        staging = target.staging(self.contents) if isinstance(target, Target) else None
        given = {opened.volume.number: opened for opened in self.volumes}
        count = self.volumes[0].volume.count
        if any(opened.volume.count != count for opened in self.volumes):
            raise NotFoundError(f"bundle {short_id(self.contents.id)}: its volumes do not agree on their number")
        stored: dict[int, list[StoredPiece]] = staging.read() if staging and len(given) < count else {}
        for number, opened in given.items():
            stored[number] = opened.pieces
        wanted = [number for number in range(1, count + 1) if number not in stored]
        if wanted and staging and isinstance(target, Target) and not self.options.dry_run:
            self._stage(target, staging, given, stored)
        if wanted:
            have = ", ".join(map(str, sorted(stored))) or "none"
            names = ", ".join(map(str, wanted[:20])) + (", …" if len(wanted) > 20 else "")
            noun = "volume" if len(wanted) == 1 else "volumes"
            raise _RefusedError(
                f"bundle {short_id(self.contents.id)}: still needs {noun} {names} of {count} (complete: {have})",
                "load the next volume; nothing of this bundle has a tag yet"
                if staging
                else "give all volumes at once: the Docker Engine cannot keep volumes",
                replace(self.result("incomplete"), wanted=tuple(wanted)),
            )
        return BundleReader(self.contents, (piece for pieces in stored.values() for piece in pieces))

    def _stage(
        self, target: Target, staging: Staging, given: dict[int, OpenedVolume], stored: dict[int, list[StoredPiece]]
    ) -> None:
        """Copy the volumes that are here into the target, one after the other."""
        store = target.record_store
        size = sum(piece.length for opened in given.values() for piece in opened.volume.pieces)
        self.reporter.begin(f"bundle {short_id(self.contents.id)}", size)
        kept = {number: pieces for number, pieces in stored.items() if number not in given}
        try:
            for number, opened in sorted(given.items()):
                target.stage(opened, self.options.jobs, self.cancel, self.reporter)
                kept[number] = stored[number] = staged_pieces(opened, store)
                staging.write(kept)
        finally:
            self.reporter.end()

    def _needed(self, images: Sequence[BundledImage], graphs: Sequence[ImageGraph]) -> list[StoredBlob]:
        blobs = {
            (image.repository, blob.digest): StoredBlob(image.repository, blob.digest, blob.size)
            for image, graph in zip(images, graphs, strict=True)
            for blob in graph.blobs
        }
        return [*blobs.values(), *self.contents.blobs]

    def _refuse_missing(self, missing: Sequence[StoredBlob]) -> None:
        name = f"bundle {short_id(self.contents.id)}"
        if self.options.missing:
            write_missing(self.options.missing, self.contents.id, missing)
        listed = self.options.missing or "missing.json"
        write = "" if self.options.missing else f"rerun with --missing {listed}, then "
        first = missing[0]
        raise _RefusedError(
            f"{name}: the target lacks {len(missing)} blobs that it presupposes, "
            f"for example {first.digest} in {self.target.image(first.repository)}",
            f"{write}on the other side: llmstack save --missing {listed}; load that bundle first",
            replace(self.result("failed"), missing=tuple(str(blob.digest) for blob in missing)),
        )

    def result(self, status: Literal["loaded", "up-to-date", "planned", "incomplete", "failed"]) -> LoadResult:
        """Return a result without details."""
        order = self.contents.order
        return LoadResult(
            bundle=self.contents.id,
            number=order.number or None,
            created=order.created,
            status=status,
            volumes=self.volumes[0].volume.count,
            seconds=round(time.monotonic() - self.started, 3),
        )


def load(
    paths: Sequence[Path],
    destination: Namespace | EngineNamespace,
    options: LoadOptions,
    registries: Registries,
    cancel: Event,
    reporter: Reporter,
    on_failure: Callable[[LlmstackError], None],
) -> list[LoadResult]:
    """Load all bundles in these directories; after a failure, call `on_failure` and continue with the next bundle.

    A damaged volume counts as absent, and as a failure of its own. Raises LlmstackError if a directory holds no bundle.
    """
    groups: dict[Digest, list[OpenedVolume]] = {}
    volumes, errors = find_volumes(paths)
    for error in errors:
        on_failure(error)
    results = [LoadResult(None, None, "", "failed", 1, error=str(error), exit_code=error.exit_code) for error in errors]
    for opened in volumes:
        groups.setdefault(opened.volume.contents.id, []).append(opened)
    for contents in order_bundles([group[0].volume.contents for group in groups.values()]):
        target = _target(destination, contents, groups[contents.id], registries)
        run = _Load(contents, groups[contents.id], target, options, cancel, reporter)
        try:
            result = run.run()
            if options.lists and result.status == "loaded":
                target.record_in_catalogue(options.lists, contents.images)
        except Exception as exception:
            failure = exception if isinstance(exception, LlmstackError) else InternalError.of(exception)
            on_failure(failure)
            known = exception.result if isinstance(exception, _RefusedError) else run.result("failed")
            result = replace(known, error=str(failure), exit_code=failure.exit_code)
        results.append(result)
    return results


def _target(
    destination: Namespace | EngineNamespace,
    contents: Contents,
    volumes: Sequence[OpenedVolume],
    registries: Registries,
) -> Target | EngineTarget:
    if isinstance(destination, Namespace):
        return Target(destination, registries)
    complete = len({opened.volume.number for opened in volumes}) == volumes[0].volume.count
    pieces = [piece for opened in volumes for piece in opened.pieces]
    namespace = destination.namespace or Namespace.parse(DEFAULT_NAMESPACE)
    return EngineTarget(namespace, BundleReader(contents, pieces) if complete else None)


def exit_code(results: Sequence[LoadResult]) -> int:
    """Return the exit code of a run: that of the errors if they agree and nothing was loaded, else 1; 0 without errors.

    An incomplete bundle does not count beside the damaged volume that it lacks.
    """
    failed = [result for result in results if result.error]
    codes = {result.exit_code for result in failed if result.status == "failed"}
    codes = codes or {result.exit_code for result in failed}
    if EXIT_BUG in codes:
        return EXIT_BUG
    if len(codes) == 1 and len(failed) == len(results):
        return codes.pop()
    return 1 if failed else 0
