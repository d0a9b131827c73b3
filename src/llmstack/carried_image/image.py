"""An image opened for reading: the manifest for one platform, its config, and the file index if llmstack wrote it."""

from __future__ import annotations

import platform as host
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import INDEX_PATH, MAX_INDEX_SIZE, FileIndex, IndexedFile
from llmstack.errors import IntegrityError, NotFoundError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import (
    INDEX_TYPES,
    MAX_CONFIG_SIZE,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RawManifest,
)
from llmstack.oci.store import BlobReader, read_verified
from llmstack.oci.tar_reader import TarReader, open_layer

# An index of indexes is allowed, more than that is not to be found anywhere.
_MAX_NESTING = 3
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A stored layer: its blob, and its diff id, which is the digest of the uncompressed tar."""

    blob: Descriptor
    diff_id: Digest

    @property
    def compressed(self) -> bool:
        """Tell whether the layer must be decompressed, so that no range of its tar can be fetched."""
        return self.blob.digest != self.diff_id


@dataclass(frozen=True, slots=True)
class FileRanges:
    """Where files can be read by range: the layers that hold them, by diff id, and what to read them from."""

    reader: BlobReader
    layers: Mapping[Digest, StoredLayer]


@dataclass(frozen=True, slots=True)
class FileTar:
    """A tar with files of an image: a layer, or what the Docker Engine returns for a path.

    `files` are the files that it holds, or one part of, by path in the tar. `open` takes a function that is called with
    the size of each chunk; it raises NotFoundError, and IntegrityError at the end if a layer's digest does not match.
    `blob` is None where the tar has no digest.
    """

    name: str
    size: int
    files: Mapping[str, Sequence[IndexedFile]]
    open: Callable[[Callable[[int], None]], AbstractContextManager[TarReader]]
    blob: Descriptor | None = None


class OpenedImage(Protocol):
    """An image opened for reading, in a registry, a layout, an archive or the Docker Engine."""

    @property
    def name(self) -> str:
        """What messages call the image."""

    @property
    def index(self) -> FileIndex | None:
        """The file index; None if the image is not a carried image."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the config."""

    @property
    def digest(self) -> Digest | None:
        """The digest of the manifest or index; None in the Docker Engine."""

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that the image is for."""

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers as stored; empty in the Docker Engine."""

    def stored_layers(self) -> Mapping[Digest, StoredLayer]:
        """Return the stored layers by diff id."""

    def ranges_of(self, files: Sequence[IndexedFile], /) -> FileRanges | None:
        """Return where these files are stored; None if they can only be streamed.

        Raises IntegrityError if the file index names a layer or a range that does not exist.
        """

    def layer_tars(self) -> list[FileTar]:
        """Return the tars that the image is merged from, the top one first."""

    def file_tars(self, files: Sequence[IndexedFile]) -> list[tuple[FileTar, ...]]:
        """Return the tars to read these files from. The tars of a group are read in order: they hold a file's parts."""

    def tars_to_verify(self) -> tuple[list[tuple[FileTar, ...]], list[str]]:
        """Return all tars of the image, in groups as `file_tars`, and what is wrong with its manifests."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image with manifests and blobs, verified down to its config and its file index; implements OpenedImage.

    `raw_manifest` is what the reference named.
    """

    name: str
    reader: BlobReader
    raw_manifest: RawManifest
    platforms: tuple[Platform, ...]
    manifest: Manifest
    config: ImageConfig
    index: FileIndex | None

    @property
    def labels(self) -> Mapping[str, str]:
        """See OpenedImage."""
        return self.config.labels

    @property
    def digest(self) -> Digest:
        """See OpenedImage."""
        return self.raw_manifest.digest

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """See OpenedImage."""
        return self.manifest.layers

    def layers_of(self, files: Iterable[IndexedFile]) -> dict[Digest, StoredLayer]:
        """Return the layers that hold these files, by diff id.

        Raises IntegrityError if the file index names a layer or a range that does not exist.
        """
        stored = self.stored_layers()
        found = {}
        for file in files:
            for part in file.ranges:
                layer = stored.get(part.layer)
                if layer is None:
                    raise IntegrityError(f"{self.name}: file index: {file.path!r} is in an unknown layer")
                if not layer.compressed and part.offset + part.size > layer.blob.size:
                    raise IntegrityError(f"{self.name}: file index: {file.path!r} is beyond the end of its layer")
                found[part.layer] = layer
        return found

    def stored_layers(self) -> dict[Digest, StoredLayer]:
        """See OpenedImage; raises IntegrityError if manifest and config list different layers."""
        diff_ids = self.config.diff_ids
        if len(diff_ids) != len(self.layers):
            raise IntegrityError(
                f"{self.name}: the manifest lists {len(self.layers)} layers, the config {len(diff_ids)}"
            )
        pairs = list(zip(self.layers, diff_ids, strict=True))
        return {diff_id: StoredLayer(blob, diff_id) for blob, diff_id in reversed(pairs)}

    def ranges_of(self, files: Sequence[IndexedFile], /) -> FileRanges:
        """See OpenedImage."""
        return FileRanges(self.reader, self.layers_of(files))

    def layer_tars(self) -> list[FileTar]:
        """See OpenedImage."""
        count = len(self.layers)
        named = [(f"layer {number + 1} of {count}", blob) for number, blob in enumerate(self.layers)]
        return [self._tar(name, blob, {}) for name, blob in reversed(named)]

    def file_tars(self, files: Sequence[IndexedFile]) -> list[tuple[FileTar, ...]]:
        """See OpenedImage."""
        stored = self.layers_of(files)
        groups: dict[tuple[Digest, ...], list[IndexedFile]] = defaultdict(list)
        for file in files:
            groups[file.layers].append(file)
        return [
            tuple(self._part_tar(stored[layer].blob, number, held) for number, layer in enumerate(layers))
            for layers, held in groups.items()
        ]

    def tars_to_verify(self) -> tuple[list[tuple[FileTar, ...]], list[str]]:
        """See OpenedImage: the layers of all platforms."""
        manifests, problems = _all_manifests(self)
        groups = self.file_tars(self.index.files) if self.index else []
        read = {tar.blob.digest for group in groups for tar in group if tar.blob}
        layers = {layer.digest: layer for manifest in manifests for layer in manifest.layers}
        others = [layer for digest, layer in layers.items() if digest not in read]
        return [*groups, *((self._part_tar(layer, 0, ()),) for layer in others)], problems

    def _part_tar(self, blob: Descriptor, number: int, files: Iterable[IndexedFile]) -> FileTar:
        held: dict[str, list[IndexedFile]] = defaultdict(list)
        for file in files:
            # Files with the same bytes share parts.
            held[file.part_path(number)].append(file)
        return self._tar(f"layer {blob.digest}", blob, held)

    def _tar(self, name: str, blob: Descriptor, files: Mapping[str, Sequence[IndexedFile]]) -> FileTar:
        return FileTar(name, blob.size, files, partial(open_layer, self.reader, blob), blob)


def open_image(reader: BlobReader, reference: str, name: str | None = None) -> Image:
    """Open the image of a tag or a digest, for this host's platform, else for the first one.

    Raises NotFoundError, IntegrityError, NotAuthorizedError, UnavailableError.
    """
    raw = reader.manifest(reference)
    manifest, platforms = for_platform(reader, raw, host_platform())
    config = ImageConfig.parse(read_verified(reader, manifest.config, MAX_CONFIG_SIZE))
    return Image(
        name=name or reader.name,
        reader=reader,
        raw_manifest=raw,
        platforms=platforms or (config.platform,),
        manifest=manifest,
        config=config,
        index=_file_index(reader, manifest, config),
    )


def _all_manifests(image: Image) -> tuple[list[Manifest], list[str]]:
    """Return the manifests of all platforms, each verified with its config, and what is wrong with the others.

    A copy may hold the manifest of one platform only. Raises NotAuthorizedError, UnavailableError.
    """
    manifests, problems = [image.manifest], []
    listed = Index.parse(image.raw_manifest).manifests if image.raw_manifest.media_type in INDEX_TYPES else ()
    for item in listed:
        try:
            raw = image.reader.manifest(item.digest)
            if raw.media_type in INDEX_TYPES:
                raise IntegrityError(f"{image.name}: index {image.digest} lists another index")
            manifest = Manifest.parse(raw)
            read_verified(image.reader, manifest.config, MAX_CONFIG_SIZE)
            manifests.append(manifest)
        except (IntegrityError, NotFoundError) as error:
            problems.append(f"{item.platform}: {error.message}" if item.platform else error.message)
    return manifests, problems


def host_platform() -> Platform:
    """Return the platform that containers on this machine have."""
    machine = host.machine().lower()
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def for_platform(reader: BlobReader, document: RawManifest, wanted: Platform) -> tuple[Manifest, tuple[Platform, ...]]:
    """Return the manifest for a platform (else the first there is), and which platforms an index lists.

    Raises what reading raises.
    """
    platforms: tuple[Platform, ...] = ()
    for _ in range(_MAX_NESTING):
        if document.media_type not in INDEX_TYPES:
            return Manifest.parse(document), platforms
        # BuildKit lists attestations beside the images, for platform unknown/unknown.
        images = [
            item for item in Index.parse(document).manifests if item.platform is None or item.platform.os != "unknown"
        ]
        if not images:
            raise IntegrityError(f"{reader.name}: index {document.digest} lists no image")
        platforms = platforms or tuple(item.platform for item in images if item.platform)
        matching = [item for item in images if item.platform and _fits(item.platform, wanted)]
        document = reader.manifest((matching or images)[0].digest)
    raise IntegrityError(f"{reader.name}: indexes of indexes of indexes")


def _fits(platform: Platform, wanted: Platform) -> bool:
    return (platform.os, platform.architecture) == (wanted.os, wanted.architecture)


def _file_index(reader: BlobReader, manifest: Manifest, config: ImageConfig) -> FileIndex | None:
    """Read the file index out of the last layer.

    The annotation that marks it gets lost in some copies, the label does not. An image built on top of a carried one
    has the label, too, but not the index as its last layer: it is read like any other image.
    """
    if not manifest.layers:
        return None
    last = manifest.layers[-1]
    marked = last.annotations.get(annotation_keys.LAYER) == "index"
    if not marked and annotation_keys.FORMAT not in config.labels:
        return None
    if last.size > MAX_INDEX_SIZE:
        if marked:
            raise IntegrityError(f"{reader.name}: the file index claims {last.size} bytes, more than {MAX_INDEX_SIZE}")
        return None
    index = _read_index(reader, last)
    if index is None and marked:
        raise IntegrityError(f"{reader.name}: the layer marked as file index holds none")
    return index


def _read_index(reader: BlobReader, layer: Descriptor) -> FileIndex | None:
    index = None
    with open_layer(reader, layer) as tar:
        for entry in tar:
            path = entry.path
            if path == INDEX_PATH and entry.kind == "file" and entry.size <= MAX_INDEX_SIZE and index is None:
                index = FileIndex.parse(tar.content())
            elif entry.kind != "directory":
                return None
    return index
