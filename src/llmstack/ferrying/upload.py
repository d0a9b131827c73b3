"""Moving what is planned as one: a layer of whole files, or one file in several layers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from llmstack.carried_image.file_index import BlobRange, IndexedFile
from llmstack.errors import on_side
from llmstack.ferrying.file_source import FileSource
from llmstack.ferrying.layer_plan import PlannedLayer, SplitFile
from llmstack.ferrying.layer_stream import Chunks, LayerStream, PartStream
from llmstack.ferrying.publish import layer_annotations
from llmstack.hf.snapshot import FileHash, HubFile, RepoInfo, verifying
from llmstack.oci.spec import LAYER_TAR, Descriptor
from llmstack.oci.store import BlobStore
from llmstack.reporting import Reporter, Task


@dataclass(frozen=True, slots=True)
class Upload:
    """From where to where; `ahead` opens small files before their turn.

    `part_done` hears of each part of a file that is in the store before the whole file is.
    """

    source: FileSource
    info: RepoInfo
    store: BlobStore
    reporter: Reporter
    ahead: Executor
    part_done: Callable[[Descriptor], None]

    def move(self, planned: PlannedLayer | SplitFile) -> tuple[IndexedFile, ...]:
        """Upload the bytes and return what the file index says of the files.

        Raises what reading and writing raise, and then no file's last byte is in the store.
        """
        task = self.reporter.task(planned.name, sum(file.size for file in planned.files))
        try:
            return (self._parts(planned, task),) if isinstance(planned, SplitFile) else self._layer(planned, task)
        finally:
            task.done()

    def _layer(self, layer: PlannedLayer, task: Task) -> tuple[IndexedFile, ...]:
        sha256: dict[str, str] = {}

        def verified(file: HubFile, digest: str) -> None:
            sha256[file.path] = digest

        def read(file: HubFile) -> Chunks:
            return verifying(file, self.source.read(self.info, file, 0, file.size), verified)

        stream = LayerStream(layer, read, self.ahead, task)
        with on_side("destination", layer.name):
            digest, _ = self.store.write_blob(stream)
        return tuple(
            IndexedFile(file.path, file.size, file.oid, sha256[file.path], (BlobRange(digest, start, file.size),))
            for file, start in zip(layer.files, layer.offsets, strict=True)
        )

    def _parts(self, split: SplitFile, task: Task) -> IndexedFile:
        """Upload a file's parts in order, for one hash goes through all of them.

        The last part is not whole before the file's hash has proved right.
        """
        file, parts, start = split.file, [], 0
        seen = FileHash(file)
        for layer, offset in zip(split.tar_files, split.offsets, strict=True):
            stop = start + layer.size
            read = partial(self.source.read, self.info, file, start, stop)
            stream = PartStream(layer, read, seen, task, is_last=stop == file.size)
            with on_side("destination", split.name):
                digest, size = self.store.write_blob(stream)
            if stop < file.size:
                self.part_done(Descriptor(LAYER_TAR, digest, size, layer_annotations(split)))
            seen, start = stream.seen, stop
            parts.append(BlobRange(digest, offset, layer.size))
        return IndexedFile(file.path, file.size, file.oid, seen.check(), tuple(parts))
