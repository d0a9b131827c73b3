"""The OCI image-spec's documents as values: descriptors, manifests, indexes, configs.

Parsed documents keep the raw bytes they came from: a digest is always taken of those, never of re-written JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmstack.errors import IntegrityError, UsageError
from llmstack.oci.reference import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER_TAR + "+gzip"
LAYER_ZSTD = LAYER_TAR + "+zstd"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"

INDEX_TYPES = frozenset({INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({MANIFEST, DOCKER_MANIFEST})

# What registries accept, and what the spec asks implementations to support at least ("pushing manifests").
MAX_MANIFEST_SIZE = 4 * 1024 * 1024
MAX_CONFIG_SIZE = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor architecture, as in an index's descriptors."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `os/architecture[/variant]`; raises UsageError."""
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(parts):
            raise UsageError(f"{text!r} is not a platform", hint="write it as linux/amd64 or linux/arm64/v8")
        return cls(*parts)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """Read the `platform` object of a descriptor."""
        return cls(
            str(value.get("os", "")), str(value.get("architecture", "")), str(value.get("variant") or "") or None
        )

    def to_json(self) -> dict[str, str]:
        """Return the `platform` object of a descriptor."""
        value = {"architecture": self.architecture, "os": self.os}
        return {**value, "variant": self.variant} if self.variant else value


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob or a manifest: media type, digest, size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Read a descriptor object; raises IntegrityError if a required field is missing or wrong."""
        if not isinstance(value, dict):
            raise IntegrityError(f"a descriptor is not an object: {str(value)[:80]!r}")
        size, digest = value.get("size"), str(value.get("digest", ""))
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise IntegrityError(f"descriptor {digest[:80]!r} has no valid size")
        try:
            parsed = Digest.parse(digest)
        except UsageError as error:
            raise IntegrityError(f"a descriptor's digest is wrong: {error.message}") from error
        annotations, platform = value.get("annotations"), value.get("platform")
        return cls(
            media_type=str(value.get("mediaType", "")),
            digest=parsed,
            size=size,
            annotations={str(k): str(v) for k, v in annotations.items()} if isinstance(annotations, dict) else {},
            platform=Platform.from_json(platform) if isinstance(platform, dict) else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the descriptor object."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform:
            value["platform"] = self.platform.to_json()
        return value


@dataclass(frozen=True, slots=True)
class RawManifest:
    """A manifest or an index exactly as it is stored: its media type and its raw bytes."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor that points at this document."""
        return Descriptor(self.media_type, self.digest, len(self.data))

    def json(self) -> dict[str, Any]:
        """Parse the document; raises IntegrityError if it is not a JSON object."""
        return parse_object(self.data, "manifest")


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest (image-spec manifest.md): a config, and the layers from the lowest up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: RawManifest) -> Manifest:
        """Read an OCI or Docker schema 2 manifest; raises IntegrityError."""
        value = document.json()
        layers = value.get("layers")
        if value.get("schemaVersion") != 2 or not isinstance(layers, list):
            raise IntegrityError(
                f"manifest {document.digest} is not an OCI or Docker schema 2 image manifest",
                hint="images pushed by Docker before 1.10 must be pushed again by a newer one",
            )
        return cls(
            config=Descriptor.from_json(value.get("config")),
            layers=tuple(Descriptor.from_json(layer) for layer in layers),
            annotations=_annotations(value),
        )

    def to_raw(self) -> RawManifest:
        """Return the manifest as the bytes that are stored; the same manifest gives the same bytes."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
            "annotations": dict(sorted(self.annotations.items())),
        }
        return RawManifest(MANIFEST, canonical_json(value))


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (image-spec image-index.md): one manifest per platform."""

    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: RawManifest) -> Index:
        """Read an OCI index or a Docker manifest list; raises IntegrityError."""
        value = document.json()
        manifests = value.get("manifests")
        if not isinstance(manifests, list):
            raise IntegrityError(f"index {document.digest} has no list of manifests")
        return cls(tuple(Descriptor.from_json(item) for item in manifests), _annotations(value))

    def to_raw(self) -> RawManifest:
        """Return the index as the bytes that are stored; the same index gives the same bytes."""
        value = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [item.to_json() for item in self.manifests],
            "annotations": dict(sorted(self.annotations.items())),
        }
        return RawManifest(INDEX, canonical_json(value))


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image config (image-spec config.md): the platform, how to run it, the layers' diff_ids, labels."""

    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Read a config blob; raises IntegrityError."""
        return cls(parse_object(data, "image config"))

    @property
    def platform(self) -> Platform:
        """The platform that the image is for."""
        return Platform.from_json(self.raw)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the layers' uncompressed tars, from the lowest up; raises IntegrityError."""
        rootfs = self.raw.get("rootfs")
        values = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        try:
            return tuple(Digest.parse(str(value)) for value in values or ())
        except (UsageError, TypeError) as error:
            raise IntegrityError(f"image config: wrong diff_ids ({error})") from error

    @property
    def labels(self) -> dict[str, str]:
        """The labels; empty when there are none."""
        config = self.raw.get("config")
        labels = config.get("Labels") if isinstance(config, dict) else None
        return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def canonical_json(value: object) -> bytes:
    """Serialise `value` the one way that llmstack writes JSON into images: compact, UTF-8, order as given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse `data` as a JSON object; raises IntegrityError that names `what`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object")
    return value


def media_type_of(value: Mapping[str, Any]) -> str:
    """Return a manifest's or an index's media type, told by its fields where it does not name it itself."""
    declared = value.get("mediaType")
    if isinstance(declared, str):
        return declared
    return INDEX if "manifests" in value else MANIFEST


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations")
    return {str(k): str(v) for k, v in annotations.items()} if isinstance(annotations, dict) else {}
