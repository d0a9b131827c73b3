"""An opened image in the local Docker Engine: its files are streamed as tars, its layers are not known."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llmstack.carried_image.file_index import INDEX_PATH, MAX_INDEX_SIZE, ROOT, FileIndex, IndexedFile
from llmstack.carried_image.image import FileRanges, FileTar, StoredLayer
from llmstack.carried_image.index_layer import index_layer
from llmstack.engine.engine_image import EngineImage
from llmstack.errors import UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import Descriptor, Platform
from llmstack.oci.tar_reader import TarReader

# Each single file costs a request to the engine. For more files than this, one stream is faster.
_MAX_SINGLE_FILES = 32


@dataclass(frozen=True)
class ImageInEngine:
    """An image in the engine; implements OpenedImage."""

    engine_image: EngineImage
    index: FileIndex | None
    confirmed: bool | None = True
    digest: Digest | None = None
    layers: tuple[Descriptor, ...] = ()
    artifact_type: str | None = None

    @classmethod
    def open(cls, engine_image: EngineImage) -> ImageInEngine:
        """Read the file index. It counts only as the top layer: else the image was built on a carried image."""
        data = engine_image.read_file(f"/{INDEX_PATH}", MAX_INDEX_SIZE)
        if data is None:
            return cls(engine_image, None)
        index = FileIndex.parse([data])
        digest = hashlib.sha256()
        for chunk in index_layer(index, len(data), [data]):
            digest.update(chunk)
        is_top = engine_image.top_layer == f"sha256:{digest.hexdigest()}"
        return cls(engine_image, index if is_top else None)

    @property
    def name(self) -> str:
        """See OpenedImage."""
        return self.engine_image.name

    @property
    def labels(self) -> Mapping[str, str]:
        """See OpenedImage."""
        return self.engine_image.labels

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """See OpenedImage."""
        details = self.engine_image.details
        return (Platform(str(details.get("Os")), str(details.get("Architecture"))),)

    def stored_layers(self) -> Mapping[Digest, StoredLayer]:
        """Return nothing: the engine does not tell how layers are stored."""
        return {}

    def ranges_of(self, _files: Sequence[IndexedFile], /) -> FileRanges | None:
        """Return None: the engine streams complete files only."""
        return None

    def layer_tars(self) -> list[FileTar]:
        """Return /REPO as the only tar: the engine has merged the layers."""
        return [self._tar(ROOT, 0, {})]

    def file_tars(self, files: Sequence[IndexedFile]) -> list[tuple[FileTar, ...]]:
        """See OpenedImage. Parts of a split file are not under /REPO: each is read by its path."""
        most = 2 * sum(file.size for file in files) >= (self.index.size if self.index else 0)
        one_stream = most or len(files) > _MAX_SINGLE_FILES
        single = [file for file in files if file.is_split or not one_stream]
        groups = [
            # The engine names what it returns by the last component of its path.
            tuple(
                self._tar(path, part.size, {posixpath.basename(path): [file]})
                for number, part in enumerate(file.ranges)
                for path in [file.entry_path(ROOT, number)]
            )
            for file in single
        ]
        streamed = {f"{ROOT}/{file.path}": [file] for file in files if one_stream and not file.is_split}
        if streamed:
            size = sum(file.size for [file] in streamed.values())
            groups.append((self._tar(ROOT, size, streamed),))
        return groups

    def tars_to_verify(self) -> tuple[list[tuple[FileTar, ...]], list[str]]:
        """See OpenedImage; raises UsageError without a file index."""
        if self.index is None:
            raise UsageError(
                f"{self.name} has no file index, so there are no hashes to verify its files against",
                hint="verify the image in a registry: its layers have digests",
            )
        return self.file_tars(self.index.files), []

    def _tar(self, path: str, size: int, files: Mapping[str, list[IndexedFile]]) -> FileTar:
        @contextmanager
        def open_tar(_count_bytes: Callable[[int], None]) -> Iterator[TarReader]:
            with self.engine_image.open_tar(f"/{path}") as tar:
                yield tar

        return FileTar(f"/{path}", size, files, open_tar)
