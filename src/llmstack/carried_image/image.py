"""An image opened for reading: the manifest for one platform, its config, and the file index if llmstack wrote it."""

from __future__ import annotations

import platform as host
from collections.abc import Iterable
from dataclasses import dataclass

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
from llmstack.oci.tar_reader import open_layer

# An index of indexes is allowed, more than that is not to be found anywhere.
_MAX_NESTING = 3
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer as it is stored: its blob, and the digest of its tar, which is the blob's own if it is not compressed."""

    blob: Descriptor
    diff_id: Digest

    @property
    def compressed(self) -> bool:
        """Tell whether the tar has to be decompressed, so that no range of it can be fetched."""
        return self.blob.digest != self.diff_id


@dataclass(frozen=True, slots=True)
class Image:
    """One image, verified down to its config and its file index. `document` is what the reference named."""

    reader: BlobReader
    raw_manifest: RawManifest
    platforms: tuple[Platform, ...]
    manifest: Manifest
    config: ImageConfig
    index: FileIndex | None

    def layers_of(self, files: Iterable[IndexedFile]) -> dict[Digest, StoredLayer]:
        """Return the layers that hold the files' bytes, by the digest that the file index knows them by.

        Raises IntegrityError if the index lies about one.
        """
        stored = self.stored_layers()
        found = {}
        for file in files:
            for part in file.ranges:
                layer = stored.get(part.layer)
                if layer is None:
                    raise IntegrityError(f"{self.reader.name}: the file index puts {file.path!r} into an unknown layer")
                if not layer.compressed and part.offset + part.size > layer.blob.size:
                    raise IntegrityError(
                        f"{self.reader.name}: the file index puts {file.path!r} beyond its layer's end"
                    )
                found[part.layer] = layer
        return found

    def stored_layers(self) -> dict[Digest, StoredLayer]:
        """Return the layers by the digest of their tar (the file index knows them by it)."""
        diff_ids = self.config.diff_ids
        layers = self.manifest.layers
        if len(diff_ids) != len(layers):
            raise IntegrityError(f"{self.reader.name}: {len(layers)} layers, but the config names {len(diff_ids)}")
        return {
            diff_id: StoredLayer(blob, diff_id) for blob, diff_id in reversed(list(zip(layers, diff_ids, strict=True)))
        }


def open_image(reader: BlobReader, reference: str, platform: Platform | None = None) -> Image:
    """Open the image that a tag or a digest names, for `platform` (this host's, else the first there is).

    Raises NotFoundError, IntegrityError, NotAuthorizedError, UnavailableError.
    """
    document = reader.manifest(reference)
    manifest, platforms = for_platform(reader, document, platform or host_platform())
    config = ImageConfig.parse(read_verified(reader, manifest.config, MAX_CONFIG_SIZE))
    return Image(
        reader=reader,
        raw_manifest=document,
        platforms=platforms or (config.platform,),
        manifest=manifest,
        config=config,
        index=_file_index(reader, manifest, config),
    )


def all_manifests(image: Image) -> tuple[list[Manifest], list[str]]:
    """Return the manifests of all platforms, each verified with its config, and what is wrong with the others.

    A copy may hold the manifest of one platform alone. Raises NotAuthorizedError, UnavailableError.
    """
    manifests, problems = [image.manifest], []
    listed = Index.parse(image.raw_manifest).manifests if image.raw_manifest.media_type in INDEX_TYPES else ()
    for item in listed:
        try:
            document = image.reader.manifest(item.digest)
            if document.media_type in INDEX_TYPES:
                raise IntegrityError(f"{image.reader.name}: index {image.raw_manifest.digest} lists another index")
            manifest = Manifest.parse(document)
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
