"""Ferry one repo: resolve its commit, plan the layers, upload the missing ones, and write the tag last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from llmstack.carried_image.file_index import FORMAT, FileIndex, IndexedFile, check_paths, root_of
from llmstack.carried_image.naming import is_leftover, partial_tag, tag_for
from llmstack.carried_image.selection import Selection, select
from llmstack.errors import LlmstackError, NotFoundError, UsageError, on_side
from llmstack.ferrying.base_image import BaseImage
from llmstack.ferrying.earlier_images import EarlierImage, ReusableLayers, read_earlier_image
from llmstack.ferrying.layer_plan import MAX_LAYERS, Limits, PlannedLayer, SplitFile, plan
from llmstack.ferrying.layer_stream import READ_AHEAD, TransferTime
from llmstack.ferrying.partial_image import PartialImage, remove_partial_image
from llmstack.ferrying.publish import CompleteLayer, publish
from llmstack.ferrying.upload import FileSource, Upload
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.lists.wish_list import RepoRequest
from llmstack.net import Client
from llmstack.net.cancel import GRACE
from llmstack.net.parallel import run_all
from llmstack.oci.reference import Digest
from llmstack.oci.rootfs import WHITEOUT
from llmstack.oci.store import BlobStore, check_writable
from llmstack.reporting import Reporter, human_size

# Seconds for saving the partial image of a failed ferry. An interrupted ferry has less time: the user waits for it.
SAVE_TIME = 30.0


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """What will be done with a planned layer or split file: reuse these files of an earlier image, or upload (None).

    `earlier_format` is set if an earlier image has the same files, but stored in another format.
    """

    layer: PlannedLayer | SplitFile
    reused: tuple[IndexedFile, ...] | None
    earlier_format: str | None = None


@dataclass(frozen=True, slots=True)
class RepoFerryResult:
    """The result for one repo; sizes are bytes of files, `created` is the commit's date.

    `layers` is the plan, empty if the image was up to date; `limited_by_destination` tells whether the uploads mostly
    waited for the destination; `digest` is None after a dry run. A dry run does not run a script: sizes are 0 then, and
    there is no plan.
    """

    status: Literal["carried", "up-to-date", "planned"]
    info: RepoInfo
    created: str
    digest: Digest | None
    bytes_total: int
    bytes_transferred: int
    layers: tuple[LayerDecision, ...] = ()
    limited_by_destination: bool = False


class RepoFerry:
    """Ferries repos one after another, with a shared client and the same options.

    `layer_size` is the largest layer of the destination in bytes (None: no known limit). With `split_large`, larger
    files are split into parts.
    """

    def __init__(
        self,
        client: Client,
        reporter: Reporter,
        jobs: int,
        layer_size: int | None = None,
        *,
        split_large: bool = False,
    ) -> None:
        self._client = client
        self._reporter = reporter
        self._jobs = jobs
        self._layer_size = layer_size
        self._split_large = split_large

    def ferry(
        self,
        request: RepoRequest,
        source: FileSource,
        store: BlobStore,
        load_base: Callable[[], BaseImage],
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> RepoFerryResult:
        """Ferry one repo into `store`, under the tag of its id and revision.

        `load_base` is called only if a new image is needed. With `force`, earlier images are ignored. If it raises
        LlmstackError, the tag is unchanged, and the completed layers are kept as the partial image.
        """
        tag, main_tag = tag_for(request.repo_id, request.revision), tag_for(request.repo_id)
        info = source.info(request.repo_id, request.repo_type, request.revision)
        if info.renamed_to:
            self._reporter.note(
                f"{info.repo_type} {info.repo_id} was renamed to {info.renamed_to} on the Hub; "
                f"the image keeps the requested id"
            )
        with on_side("destination"):
            current = None if force else read_earlier_image(store, tag)
            _check_tag(current, info, tag)
        if current and current.index.local != info.local and not current.index.incomplete:
            held = "local files" if current.index.local else f"the Hub's commit {current.index.commit[:12]}"
            self._reporter.warn(f"{store.name}:{tag} held {held} before; this run replaces them")
        if current and _is_up_to_date(current.index, info, request.selection):
            if not dry_run:
                remove_partial_image(current, store, tag, self._reporter)
            return RepoFerryResult("up-to-date", info, current.index.created, current.digest, current.index.size, 0)
        base = load_base()
        limits = self._limits(base, info.repo_type)
        if request.selection.prepare:
            if dry_run:
                return RepoFerryResult("planned", info, "", None, 0, 0)
            # A script may run for hours: what its result needs is checked first.
            with on_side("destination"):
                check_writable(store)
        snapshot = source.snapshot(info)
        files = select(snapshot.files, request.selection, lambda file: file.path)
        _check_files(files, snapshot)
        with on_side("destination"):
            main = None if force or tag == main_tag else read_earlier_image(store, main_tag)
            partial = None if force else read_earlier_image(store, partial_tag(tag))
            reusable = ReusableLayers(image for image in (partial, main, current) if image)
            layers = [_decide(layer, reusable, store) for layer in plan(files, limits)]
        self._note_format(info, layers)
        to_upload = _size(entry for entry in layers if not entry.reused)
        total = sum(file.size for file in files)
        if dry_run:
            return RepoFerryResult("planned", info, snapshot.created, None, total, to_upload, tuple(layers))
        self._reporter.begin(request.repo_id, to_upload)
        complete = [CompleteLayer(entry.layer, entry.reused) for entry in layers if entry.reused]
        index = _empty_index(snapshot, request.selection)
        partial_image = PartialImage(index, store, tag, partial, complete, len(layers) - len(complete), self._reporter)
        waits = TransferTime()
        try:
            uploaded = self._upload(source, info, layers, store, partial_image, waits)
            image = publish(index, uploaded, store, base, tag)
            partial_image.remove(image)
        except BaseException as error:
            self._save(partial_image, SAVE_TIME if isinstance(error, LlmstackError) else GRACE)
            raise
        finally:
            self._reporter.end()
        slow = waits.is_limited_by_destination
        return RepoFerryResult("carried", info, snapshot.created, image.digest, total, to_upload, tuple(layers), slow)

    def _note_format(self, info: RepoInfo, layers: Sequence[LayerDecision]) -> None:
        """Say what must be uploaded again only because an earlier image has another format."""
        outdated = [entry for entry in layers if entry.earlier_format]
        if outdated:
            self._reporter.note(
                f"{info.repo_type} {info.repo_id}: {human_size(_size(outdated))} of unchanged files must be uploaded "
                f"again, because the earlier image has format {outdated[0].earlier_format}; the new one has format "
                f"{FORMAT}"
            )

    def _save(self, partial_image: PartialImage, seconds: float) -> None:
        """Save the completed layers after a failure, and make the client usable for the next repo."""
        # A registry that did not react to the cancellation in time would not answer now either.
        unresponsive = self._client.cancel.expired
        self._client.cancel.clear()
        if not unresponsive:
            with self._client.cancel.time_limit(seconds):
                partial_image.save()

    def _limits(self, base: BaseImage, repo_type: RepoType) -> Limits:
        layers = MAX_LAYERS - base.layer_count - 1
        if layers < 2:
            raise UsageError(
                f"base image: its {base.layer_count} layers leave no room for files",
                hint="choose a base image with fewer layers",
            )
        return Limits(
            layers=layers,
            layer_size=self._layer_size,
            split_large=self._split_large,
            root=root_of(repo_type),
        )

    def _upload(
        self,
        source: FileSource,
        info: RepoInfo,
        layers: Sequence[LayerDecision],
        store: BlobStore,
        partial_image: PartialImage,
        waits: TransferTime,
    ) -> list[CompleteLayer]:
        """Upload the layers that are not reused, the largest first; return all layers in order."""
        missing = sorted((entry.layer for entry in layers if not entry.reused), key=lambda layer: -layer.size)
        with ThreadPoolExecutor(READ_AHEAD, "read-ahead") as read_ahead:
            upload = Upload(source, info, store, self._reporter, read_ahead, partial_image.add_part, waits)

            def upload_layer(layer: PlannedLayer | SplitFile) -> CompleteLayer:
                complete = CompleteLayer(layer, upload.upload(layer))
                partial_image.add(complete)
                return complete

            uploaded = dict(zip(missing, run_all(upload_layer, missing, self._jobs, self._client.cancel), strict=True))
        return [CompleteLayer(entry.layer, entry.reused) if entry.reused else uploaded[entry.layer] for entry in layers]


def _empty_index(snapshot: Snapshot, selection: Selection) -> FileIndex:
    """Return the file index of a snapshot, without files."""
    info = snapshot.info
    return FileIndex(
        repo_id=info.repo_id,
        repo_type=info.repo_type,
        revision=info.revision,
        commit=info.commit,
        created=snapshot.created,
        license=info.license,
        gated=info.gated,
        selection=selection,
        files=(),
        local=info.local,
        renamed_to=info.renamed_to,
    )


def _check_files(files: Sequence[HubFile], snapshot: Snapshot) -> None:
    """Raise an error if there are no files, or paths that a repo or an image cannot contain."""
    with on_side("source"):
        if not snapshot.files:
            raise NotFoundError(f"{snapshot.info.repo_type} {snapshot.info.repo_id} has no files")
        check_paths(file.path for file in files)
    if not files:
        raise UsageError("no file of the repo is selected", hint="check --include and --exclude")
    for file in files:
        if any(name.startswith(WHITEOUT) for name in file.path.split("/")):
            raise UsageError(
                f"{file.path!r} cannot be stored in an image: {WHITEOUT}* marks a deleted file",
                hint="leave it out with --exclude",
            )


def _decide(layer: PlannedLayer | SplitFile, reusable: ReusableLayers, store: BlobStore) -> LayerDecision:
    """Reuse earlier layers if there are any and the registry has not lost one of them."""
    reused = reusable.find(layer)
    if reused and all(store.has_blob(digest) for digest in reused[0].layers):
        return LayerDecision(layer, reused)
    return LayerDecision(layer, None, None if reused else reusable.earlier_format(layer))


def _size(decisions: Iterable[LayerDecision]) -> int:
    return sum(file.size for decision in decisions for file in decision.layer.files)


def _check_tag(current: EarlierImage | None, info: RepoInfo, tag: str) -> None:
    """Raise UsageError if the tag holds another revision whose name maps to the same tag."""
    if current is None or current.index.incomplete:
        return
    index = current.index
    if index.revision != info.revision and not is_leftover(tag, index.repo_id, index.revision):
        raise UsageError(
            f"the tag {tag} holds {index.repo_id}@{index.revision}; {info.revision} has the same tag",
            hint="use the commit as the revision, or replace the image with --force",
        )


def _is_up_to_date(index: FileIndex, info: RepoInfo, selection: Selection) -> bool:
    return (
        not index.incomplete
        and index.format == FORMAT
        and index.commit == info.commit
        and index.selection == selection
        and index.repo_id == info.repo_id
        and index.repo_type == info.repo_type
        and index.revision == info.revision
    )
