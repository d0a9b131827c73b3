"""Carrying one repo: resolve, plan, move what is not there yet, and only then name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal

from llmstack.carried.fileindex import INDEX_PATH, FileIndex, IndexedFile, Selection
from llmstack.carried.image import LAYER_ANNOTATION
from llmstack.carried.naming import tag_for
from llmstack.carried.selection import select
from llmstack.carried.wishlist import WishEntry
from llmstack.errors import LlmstackError, UsageError
from llmstack.ferry.assemble import FILEPATH, assemble
from llmstack.ferry.base import Base
from llmstack.ferry.plan import MAX_LAYERS, Limits, PlannedLayer, plan
from llmstack.ferry.previous import Earlier, HeldLayers, read_earlier
from llmstack.ferry.stream import AHEAD, LayerStream
from llmstack.hub.api import Hub
from llmstack.hub.snapshot import HubFile, RepoInfo, Snapshot
from llmstack.net import Client
from llmstack.oci import tar
from llmstack.oci.reference import Digest
from llmstack.oci.spec import LAYER_TAR, Descriptor
from llmstack.oci.store import BlobStore, copy_blob, write_bytes
from llmstack.reporting import Reporter


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A planned layer, and the earlier layer's files where it need not move."""

    layer: PlannedLayer
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
    """Carries repos to one place after another; holds what they share."""

    def __init__(self, hub: Hub, client: Client, reporter: Reporter, jobs: int) -> None:
        self._hub = hub
        self._client = client
        self._reporter = reporter
        self._jobs = jobs

    def carry(
        self,
        wanted: WishEntry,
        store: BlobStore,
        get_base: Callable[[], Base],
        *,
        force: bool = False,
        dry_run: bool = False,
    ) -> Carried:
        """Carry one repo into `store`, under the tag of its id and revision.

        The tag is written last, when everything that it names is there. `get_base` is asked only when something is to
        be carried. With `force` nothing that is there already is trusted. Raises LlmstackError; whatever was uploaded
        by then stays for the next run.
        """
        tag = tag_for(wanted.repo_id, wanted.revision)
        info = self._hub.info(wanted.repo_id, wanted.repo_type, wanted.revision)
        earlier = [] if force else self._earlier(wanted, store, tag)
        for image in earlier[:1]:
            if _is_current(image.index, info, wanted.selection):
                return Carried("up-to-date", info, image.index.created, image.digest, image.index.size, 0)
        snapshot = self._hub.snapshot(info)
        files = select(snapshot.files, wanted.selection, lambda file: file.path)
        base = get_base()
        held = HeldLayers(earlier)
        room = MAX_LAYERS - base.depth - 1
        if room < 1:
            raise UsageError(f"the base has {base.depth} layers, which leaves no room for files", hint="use another")
        layers = [LayerPlan(layer, held.find(layer)) for layer in plan(files, Limits(layers=room))]
        layers = [_if_still_there(layer, store) for layer in layers]
        moving = sum(file.size for entry in layers if not entry.held for file in entry.layer.files)
        total = sum(file.size for file in files)
        if dry_run:
            return Carried("planned", info, snapshot.created, None, total, moving, tuple(layers))
        self._reporter.begin(wanted.repo_id, moving)
        try:
            indexed = self._move(info, layers, store)
            digest = _publish(snapshot, wanted, indexed, layers, store, base, tag)
        finally:
            self._reporter.end()
        return Carried("carried", info, snapshot.created, digest, total, moving, tuple(layers))

    def _earlier(self, wanted: WishEntry, store: BlobStore, tag: str) -> list[Earlier]:
        """Return the images to build upon: the one under the same tag first, then the repo's main one."""
        main = tag_for(wanted.repo_id)
        own = read_earlier(store, tag)
        other = read_earlier(store, main) if tag != main else None
        return [image for image in (own, other) if image]

    def _move(self, info: RepoInfo, layers: Sequence[LayerPlan], store: BlobStore) -> list[tuple[IndexedFile, ...]]:
        """Upload the layers that have to move, the largest first, and return all layers' files in order."""
        with (
            ThreadPoolExecutor(AHEAD, "ahead") as ahead,
            ThreadPoolExecutor(self._jobs, "layer") as workers,
        ):
            futures = {
                entry.layer: workers.submit(self._upload, info, entry.layer, store, ahead)
                for entry in sorted(layers, key=lambda entry: -entry.layer.size)
                if not entry.held
            }
            self._finish(list(futures.values()))
        return [entry.held or futures[entry.layer].result() for entry in layers]

    def _finish(self, futures: Sequence[Future[tuple[IndexedFile, ...]]]) -> None:
        """Wait for all; when one fails, or the person interrupts, end the others and tell of that one."""
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in done if future.exception()]
            if not failed:
                return
        except BaseException:
            self._client.cancel.set()
            raise
        self._client.cancel.set()
        for future in futures:
            future.cancel()
        wait(futures)
        self._client.cancel.clear()
        failed[0].result()

    def _upload(
        self, info: RepoInfo, layer: PlannedLayer, store: BlobStore, ahead: Executor
    ) -> tuple[IndexedFile, ...]:
        sha256: dict[str, str] = {}

        def verified(file: HubFile, digest: str) -> None:
            sha256[file.path] = digest

        task = self._reporter.task(_layer_name(layer), sum(file.size for file in layer.files))
        try:
            stream = LayerStream(layer, lambda file: self._hub.read(info, file, verified), ahead, task)
            digest, _ = store.write_blob(stream)
        except LlmstackError as error:
            error.side = error.side or "destination"
            raise
        finally:
            task.done()
        return tuple(
            IndexedFile(file.path, file.size, file.oid, sha256[file.path], digest, start)
            for file, start in zip(layer.files, layer.offsets, strict=True)
        )


def _publish(
    snapshot: Snapshot,
    wanted: WishEntry,
    indexed: Sequence[tuple[IndexedFile, ...]],
    layers: Sequence[LayerPlan],
    store: BlobStore,
    base: Base,
    tag: str,
) -> Digest:
    """Write what makes an image of the layers, from the bottom up: base, file index, configs, manifests, tag."""
    info = snapshot.info
    index = FileIndex(
        repo_id=info.repo_id,
        repo_type=info.repo_type,
        revision=info.revision,
        commit=info.commit,
        created=snapshot.created,
        license=info.license,
        gated=info.gated,
        selection=wanted.selection,
        files=tuple(sorted((file for group in indexed for file in group), key=lambda file: file.path.encode())),
    )
    try:
        if base.source:
            for layer in {layer.digest: layer for entry in base.platforms for layer in entry.layers}.values():
                copy_blob(layer, base.source, store)
        descriptors = [
            _layer_descriptor(entry.layer, group[0].layer) for entry, group in zip(layers, indexed, strict=True)
        ]
        assembled = assemble(index, base, [*descriptors, _write_index(index, store)])
        for config in assembled.configs:
            write_bytes(store, config)
        for document in assembled.manifests:
            store.put_manifest(document)
        store.put_manifest(assembled.index, tag)
    except LlmstackError as error:
        error.side = error.side or "destination"
        raise
    return assembled.index.digest


def _write_index(index: FileIndex, store: BlobStore) -> Descriptor:
    data = index.to_bytes()
    file = tar.TarFile(INDEX_PATH, len(data))
    digest, size = store.write_blob(lambda: tar.layer([file], [[data]]))
    return Descriptor(LAYER_TAR, digest, size, {LAYER_ANNOTATION: "index"})


def _layer_descriptor(layer: PlannedLayer, digest: Digest) -> Descriptor:
    notes = {FILEPATH: layer.files[0].path} if layer.is_single else {}
    return Descriptor(LAYER_TAR, digest, layer.size, notes)


def _if_still_there(entry: LayerPlan, store: BlobStore) -> LayerPlan:
    """Return the plan with the layer to be moved again where the registry has lost it."""
    if entry.held and not store.has_blob(entry.held[0].layer):
        return LayerPlan(entry.layer, None)
    return entry


def _is_current(index: FileIndex, info: RepoInfo, selection: Selection) -> bool:
    return (
        index.commit == info.commit
        and index.selection == selection
        and index.repo_id == info.repo_id
        and index.repo_type == info.repo_type
        and index.revision == info.revision
    )


def _layer_name(layer: PlannedLayer) -> str:
    return layer.files[0].path if layer.is_single else f"{len(layer.files)} files, {layer.files[0].path} …"
