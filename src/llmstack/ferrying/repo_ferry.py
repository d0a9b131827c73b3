"""Carrying one repo: resolve, plan, move what is not there yet, and only then name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from llmstack.carried_image.file_index import FileIndex, IndexedFile, Selection, check_paths
from llmstack.carried_image.naming import is_leftover, partial_tag, tag_for
from llmstack.carried_image.selection import select
from llmstack.errors import LlmstackError, NotFoundError, UsageError, on_side
from llmstack.ferrying.base_image import Base
from llmstack.ferrying.earlier_images import Earlier, HeldLayers, read_earlier
from llmstack.ferrying.file_source import FileSource
from llmstack.ferrying.layer_plan import MAX_LAYERS, Limits, PlannedLayer, SplitFile, plan
from llmstack.ferrying.layer_stream import AHEAD
from llmstack.ferrying.partial_image import Checkpoint, remove_leftover
from llmstack.ferrying.publish import CompleteLayer, publish
from llmstack.ferrying.upload import Upload
from llmstack.hf.snapshot import HubFile, RepoInfo, Snapshot
from llmstack.lists.wish_list import RepoRequest
from llmstack.net import Client
from llmstack.net.cancel import GRACE
from llmstack.net.parallel import run_all
from llmstack.oci.reference import Digest
from llmstack.oci.rootfs import WHITEOUT
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter

# How long the checkpoint of a failed ferry may take. An interrupted one has less: somebody is waiting.
SAVE_TIME = 30.0


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A planned layer or split file, and what an earlier index says of it where it need not move."""

    layer: PlannedLayer | SplitFile
    held: tuple[IndexedFile, ...] | None


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of a repo; sizes are bytes of files, `created` is the commit's date.

    `layers` is the plan, empty where none was needed; `digest` is None after a dry run.
    """

    status: Literal["carried", "up-to-date", "planned"]
    info: RepoInfo
    created: str
    digest: Digest | None
    bytes_total: int
    bytes_transferred: int
    layers: tuple[LayerPlan, ...] = ()


class Carrier:
    """Carries repos to one place after another; holds what they share.

    `layer_size` is how many bytes a layer may have there, None where nothing is known of a limit. With `split_large`
    larger files are carried in parts.
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

    def carry(
        self,
        wanted: RepoRequest,
        source: FileSource,
        store: BlobStore,
        get_base: Callable[[], Base],
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> Carried:
        """Carry one repo into `store`, under the tag of its id and revision.

        The tag is written last, when everything that it names is there. `get_base` is asked only when something is to
        be carried. With `force` nothing that is there already is trusted. Raises LlmstackError, and then there is no
        new tag, but what is complete is under `<tag>--partial`, where the next run finds it.
        """
        tag, main = tag_for(wanted.repo_id, wanted.revision), tag_for(wanted.repo_id)
        info = source.info(wanted.repo_id, wanted.repo_type, wanted.revision)
        with on_side("destination"):
            own = None if force else read_earlier(store, tag)
            _check_tag(own, info, tag)
        if own and _is_current(own.index, info, wanted.selection):
            if not dry_run:
                remove_leftover(own, store, tag, self._reporter)
            return Carried("up-to-date", info, own.index.created, own.digest, own.index.size, 0)
        snapshot = source.snapshot(info)
        files = select(snapshot.files, wanted.selection, lambda file: file.path)
        _check_files(files, snapshot)
        base = get_base()
        with on_side("destination"):
            newest = None if force or tag == main else read_earlier(store, main)
            unfinished = None if force else read_earlier(store, partial_tag(tag))
            held = HeldLayers(image for image in (unfinished, newest, own) if image)
            layers = [
                _if_still_there(LayerPlan(layer, held.find(layer)), store) for layer in plan(files, self._limits(base))
            ]
        moving = sum(file.size for entry in layers if not entry.held for file in entry.layer.files)
        total = sum(file.size for file in files)
        if dry_run:
            return Carried("planned", info, snapshot.created, None, total, moving, tuple(layers))
        self._reporter.begin(wanted.repo_id, moving)
        complete = [CompleteLayer(entry.layer, entry.held) for entry in layers if entry.held]
        head = _head(snapshot, wanted.selection)
        checkpoint = Checkpoint(head, store, tag, unfinished, complete, len(layers) - len(complete), self._reporter)
        try:
            moved = self._move(source, info, layers, store, checkpoint)
            document = publish(head, moved, store, base, tag)
            checkpoint.remove(document)
        except BaseException as error:
            self._keep(checkpoint, SAVE_TIME if isinstance(error, LlmstackError) else GRACE)
            raise
        finally:
            self._reporter.end()
        return Carried("carried", info, snapshot.created, document.digest, total, moving, tuple(layers))

    def _keep(self, checkpoint: Checkpoint, seconds: float) -> None:
        """Name what is complete when the rest has failed; the next repo needs the same client."""
        # All that was told to end has ended. A registry that did not hear of that would not hear of this either.
        silent = self._client.cancel.expired
        self._client.cancel.clear()
        if not silent:
            with self._client.cancel.time_limit(seconds):
                checkpoint.save()

    def _limits(self, base: Base) -> Limits:
        room = MAX_LAYERS - base.depth - 1
        if room < 2:
            raise UsageError(f"the base has {base.depth} layers, which leaves no room for files", hint="use another")
        return Limits(layers=room, layer_size=self._layer_size, split_large=self._split_large)

    def _move(
        self,
        source: FileSource,
        info: RepoInfo,
        layers: Sequence[LayerPlan],
        store: BlobStore,
        checkpoint: Checkpoint,
    ) -> list[CompleteLayer]:
        """Upload the layers that have to move, the largest first, and return all layers in order."""
        moving = sorted((entry.layer for entry in layers if not entry.held), key=lambda layer: -layer.size)
        with ThreadPoolExecutor(AHEAD, "ahead") as ahead:
            upload = Upload(source, info, store, self._reporter, ahead, checkpoint.add_part)

            def move(layer: PlannedLayer | SplitFile) -> CompleteLayer:
                complete = CompleteLayer(layer, upload.move(layer))
                checkpoint.add(complete)
                return complete

            moved = dict(zip(moving, run_all(move, moving, self._jobs, self._client.cancel), strict=True))
        return [CompleteLayer(entry.layer, entry.held) if entry.held else moved[entry.layer] for entry in layers]


def _head(snapshot: Snapshot, selection: Selection) -> FileIndex:
    """Return the file index of a snapshot, yet without files."""
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
    )


def _check_files(files: Sequence[HubFile], snapshot: Snapshot) -> None:
    """Refuse no files at all, what the hub may not list, and what no image can hold."""
    with on_side("source"):
        if not snapshot.files:
            raise NotFoundError(f"{snapshot.info.repo_type} {snapshot.info.repo_id} has no files")
        check_paths(file.path for file in files)
    if not files:
        raise UsageError("no file of the repo is selected", hint="check --include and --exclude")
    for file in files:
        if any(part.startswith(WHITEOUT) for part in file.path.split("/")):
            raise UsageError(f"{file.path!r} cannot be in an image, where such names delete files", hint="--exclude it")


def _if_still_there(entry: LayerPlan, store: BlobStore) -> LayerPlan:
    """Return the plan with the layer to be moved again where the registry has lost it."""
    if entry.held and not all(store.has_blob(layer) for layer in entry.held[0].layers):
        return LayerPlan(entry.layer, None)
    return entry


def _check_tag(own: Earlier | None, info: RepoInfo, tag: str) -> None:
    """Refuse to put a revision in the place of another one whose name gives the same tag."""
    if own is None or own.index.incomplete or is_leftover(tag, own.index.repo_id, own.index.revision):
        return
    if own.index.revision != info.revision:
        raise UsageError(
            f"the tag {tag} holds {own.index.repo_id}@{own.index.revision}, and {info.revision} would get the same",
            hint="name the commit instead, or replace it with --force",
        )


def _is_current(index: FileIndex, info: RepoInfo, selection: Selection) -> bool:
    return (
        not index.incomplete
        and index.commit == info.commit
        and index.selection == selection
        and index.repo_id == info.repo_id
        and index.repo_type == info.repo_type
        and index.revision == info.revision
    )
