"""An image opened for reading: the manifest for one platform, its config, and the file index of a carried image."""

from __future__ import annotations

import platform as host
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import INDEX_PATH, MAX_INDEX_SIZE, ROOT, FileIndex, IndexedFile, max_index_size
from llmstack.errors import IntegrityError, NotFoundError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.spec import (
    IMAGE_CONFIG_TYPES,
    INDEX_TYPES,
    MAX_CONFIG_SIZE,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    RawManifest,
    is_tar,
)
from llmstack.oci.store import BlobReader, read_verified
from llmstack.oci.tar_reader import TarReader, open_layer

# An index may list indexes; deeper nesting is not in use.
_MAX_NESTING = 3
_CHANGED = "another program has added or rewritten layers, so its file index is not usable"
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
    `blob` is None if the tar has no digest. `links` are the hard links of a layer, by path, with their targets.
    """

    name: str
    size: int
    files: Mapping[str, Sequence[IndexedFile]]
    open: Callable[[Callable[[int], None]], AbstractContextManager[TarReader]]
    blob: Descriptor | None = None
    links: Mapping[str, str] = field(default_factory=dict)


class OpenedImage(Protocol):
    """An image opened for reading, in a registry, a layout, an archive or the Docker Engine."""

    @property
    def name(self) -> str:
        """What messages call the image."""

    @property
    def index(self) -> FileIndex | None:
        """The file index; None if the image is not a carried image."""

    @property
    def confirmed(self) -> bool | None:
        """Tell whether the tag or the request names the repo and revision of the file index; None if neither does."""

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

    @property
    def artifact_type(self) -> str | None:
        """The media type that shows an OCI artifact (a chart, a signature); None for an image."""

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


def has_base(image: OpenedImage) -> bool:
    """Tell whether an image has layers besides those of its files and of the index. The engine does not tell: True."""
    held = {layer for file in image.index.files for layer in file.layers} if image.index else set()
    return len(set(image.stored_layers()) - held) != 1


@dataclass(frozen=True, slots=True)
class Image:
    """An image with manifests and blobs, verified down to its config and its file index; implements OpenedImage.

    `raw_manifest` is what the reference named. `index_problem` says why an image that is marked as a carried image
    cannot be read as one.
    """

    name: str
    reader: BlobReader
    raw_manifest: RawManifest
    platforms: tuple[Platform, ...]
    manifest: Manifest
    config: ImageConfig
    index: FileIndex | None
    index_problem: str | None = None
    confirmed: bool | None = True

    @property
    def artifact_type(self) -> str | None:
        """See OpenedImage. Signatures of cosign have the config of an image, but no layer that is a tar."""
        if self.manifest.config.media_type not in IMAGE_CONFIG_TYPES:
            return self.manifest.config.media_type
        types = [layer.media_type for layer in self.layers]
        return types[0] if types and not any(is_tar(each) for each in types) else None

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
        """See OpenedImage; raises UsageError for an artifact."""
        if self.artifact_type:
            raise UsageError(
                f"{self.name} is an artifact ({self.artifact_type}), not an image",
                hint="get it with its own tool, for example oras pull or helm pull",
                side="source",
            )
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
        root = self.index.root if self.index else ROOT
        for file in files:
            # Files with the same bytes share parts.
            held[file.entry_path(root, number)].append(file)
        whole = (file for same in held.values() for file in same if root != ROOT and not file.is_split)
        links = {file.entry_path(ROOT): file.entry_path(root) for file in whole}
        return replace(self._tar(f"layer {blob.digest}", blob, held), links=links)

    def _tar(self, name: str, blob: Descriptor, files: Mapping[str, Sequence[IndexedFile]]) -> FileTar:
        return FileTar(name, blob.size, files, partial(open_layer, self.reader, blob), blob)


def open_image(reader: BlobReader, reference: str, name: str | None = None) -> Image:
    """Open the image of a tag or a digest, for this host's platform, else for the first one.

    Raises NotFoundError, IntegrityError, NotAuthorizedError, UnavailableError.
    """
    raw = reader.manifest(reference)
    return image_of(reader, raw, *for_platform(reader, raw, host_platform()), name)


def image_of(
    reader: BlobReader,
    raw: RawManifest,
    manifest: Manifest,
    platforms: tuple[Platform, ...],
    name: str | None = None,
) -> Image:
    """Read the config and the file index of an image whose manifests were read before; raises as `open_image`."""
    image = Image(
        name=name or reader.name,
        reader=reader,
        raw_manifest=raw,
        platforms=platforms,
        manifest=manifest,
        config=ImageConfig({}),
        index=None,
    )
    if image.artifact_type:
        return image
    config = ImageConfig.parse(read_verified(reader, manifest.config, MAX_CONFIG_SIZE))
    image = replace(image, config=config, platforms=platforms or (config.platform,))
    index, problem = _file_index(reader, manifest, config)
    return replace(image, index=index, index_problem=problem)


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
    """Return the platform of containers on this machine."""
    machine = host.machine().lower()
    return Platform("linux", _ARCHITECTURES.get(machine, machine))


def for_platform(reader: BlobReader, raw: RawManifest, platform: Platform) -> tuple[Manifest, tuple[Platform, ...]]:
    """Return the manifest for a platform, else the first one, and the platforms that an index lists.

    Raises what reading raises.
    """
    platforms: tuple[Platform, ...] = ()
    for _ in range(_MAX_NESTING):
        if raw.media_type not in INDEX_TYPES:
            return Manifest.parse(raw), platforms
        # BuildKit also lists attestations, for platform unknown/unknown.
        images = [item for item in Index.parse(raw).manifests if item.platform is None or item.platform.os != "unknown"]
        if not images:
            raise IntegrityError(f"{reader.name}: index {raw.digest} lists no image")
        platforms = platforms or tuple(item.platform for item in images if item.platform)
        matching = [item for item in images if item.platform and _fits(item.platform, platform)]
        raw = reader.manifest((matching or images)[0].digest)
    raise IntegrityError(f"{reader.name}: indexes are nested more than {_MAX_NESTING} deep")


def _fits(platform: Platform, requested: Platform) -> bool:
    return (platform.os, platform.architecture) == (requested.os, requested.architecture)


def _file_index(reader: BlobReader, manifest: Manifest, config: ImageConfig) -> tuple[FileIndex | None, str | None]:
    """Read the file index from the last layer, or return why the layer that is marked as one is not usable.

    Some copies lose the layer's annotation, but not the label. An image that was built on a carried image also has the
    label, but another last layer: it is not a carried image. Converters, to eStargz for example, keep annotations but
    rewrite the layers' tars, all of them or some.
    """
    if not manifest.layers:
        return None, None
    last = manifest.layers[-1]
    marked = last.annotations.get(annotation_keys.LAYER) == "index"
    if not marked and annotation_keys.FORMAT not in config.labels:
        return None, None
    if last.size > MAX_INDEX_SIZE:
        if marked:
            raise IntegrityError(
                f"{reader.name}: the file index claims {last.size} bytes, the limit is {MAX_INDEX_SIZE}"
            )
        return None, _CHANGED
    try:
        index = _read_index(reader, last)
    except _NotAnIndexError:
        return None, _CHANGED
    stored = set(config.diff_ids)
    described = all(stored.issuperset(file.layers) for file in index.files)
    return (index, None) if described else (None, _CHANGED)


class _NotAnIndexError(Exception):
    """The layer is not a file index. As an exception it ends reading: the layer may be large."""


def _read_index(reader: BlobReader, layer: Descriptor) -> FileIndex:
    index = None
    with open_layer(reader, layer) as tar:
        for entry in tar:
            if entry.path == INDEX_PATH and entry.kind == "file" and index is None:
                if entry.size > max_index_size(layer.size):
                    raise IntegrityError(
                        f"{reader.name}: the file index has {entry.size:,} bytes in a layer of {layer.size:,}, "
                        f"the limit is {max_index_size(layer.size):,}"
                    )
                index = FileIndex.parse(tar.content())
            elif entry.kind != "directory":
                raise _NotAnIndexError
    if index is None:
        raise _NotAnIndexError
    return index
