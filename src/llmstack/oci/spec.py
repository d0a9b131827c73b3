"""The types of the OCI image-spec: descriptors, manifests, indexes, image configs.

A digest is always computed from the raw bytes, never from JSON that was parsed and written again.
"""

from __future__ import annotations

import json
import math
import re
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
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"

# image-spec layer.md, and Docker's types.
_TAR = re.compile(r"[.+/-]tar(?:[.+]|$)")
# Some registries and old tools leave the type out.
IMAGE_CONFIG_TYPES = frozenset({CONFIG, DOCKER_CONFIG, ""})
INDEX_TYPES = frozenset({INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({MANIFEST, DOCKER_MANIFEST})

# The minimum that registries must accept (distribution-spec, "Pushing Manifests"), and in practice their maximum.
MAX_MANIFEST_SIZE = 4 * 1024 * 1024
MAX_CONFIG_SIZE = 16 * 1024 * 1024

# Go, which most other tools are written in, reads sizes as int64.
_MAX_INTEGER = 2**63 - 1
# The image-spec needs 5 levels. Python's recursion limit is near 1000.
_MAX_JSON_DEPTH = 64
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a CPU architecture, as in the descriptors of an index."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Parse `os/architecture[/variant]`; raises UsageError."""
        parts = text.split("/")
        if len(parts) not in {2, 3} or not all(parts):
            raise UsageError(f"{text!r} is not a platform", hint="examples: linux/amd64, linux/arm64/v8")
        return cls(*parts)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """Parse the `platform` object of a descriptor."""
        return cls(
            str(value.get("os", "")), str(value.get("architecture", "")), str(value.get("variant") or "") or None
        )

    def to_json(self) -> dict[str, str]:
        """Return the `platform` object of a descriptor."""
        value = {"architecture": self.architecture, "os": self.os}
        return {**value, "variant": self.variant} if self.variant else value


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob or a manifest: media type, digest, size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None

    @classmethod
    def from_json(cls, value: object) -> Descriptor:
        """Parse a descriptor object; raises IntegrityError if a required field is missing or invalid."""
        if not isinstance(value, dict):
            raise IntegrityError(f"descriptor {str(value)[:80]!r}: must be a JSON object")
        size, digest = value.get("size"), str(value.get("digest", ""))
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise IntegrityError(f"descriptor {digest[:80]!r}: invalid size")
        try:
            parsed = Digest.parse(digest)
        except UsageError as error:
            raise IntegrityError(f"descriptor: invalid digest: {error.message}") from error
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
    """The media type and the raw bytes of a manifest or an index."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> Digest:
        """The digest of the bytes."""
        return Digest.of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor of this manifest."""
        return Descriptor(self.media_type, self.digest, len(self.data))

    def json(self) -> dict[str, Any]:
        """Parse the bytes; raises IntegrityError if they are not a JSON object."""
        return parse_object(self.data, f"manifest {self.digest}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest (image-spec manifest.md): a config, and the layers from the bottom up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: RawManifest) -> Manifest:
        """Parse an OCI or Docker schema 2 manifest; raises IntegrityError."""
        value = raw.json()
        layers = value.get("layers")
        if value.get("schemaVersion") != 2 or not isinstance(layers, list):
            raise IntegrityError(
                f"manifest {raw.digest}: not an OCI or Docker schema 2 image manifest",
                hint="push images from Docker before 1.10 again with a newer Docker",
            )
        return cls(
            config=Descriptor.from_json(value.get("config")),
            layers=tuple(Descriptor.from_json(layer) for layer in layers),
            annotations=_annotations(value),
        )

    def to_raw(self) -> RawManifest:
        """Serialize the manifest; the bytes depend on its values only."""
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
    def parse(cls, raw: RawManifest) -> Index:
        """Parse an OCI index or a Docker manifest list; raises IntegrityError."""
        value = raw.json()
        manifests = value.get("manifests")
        if not isinstance(manifests, list):
            raise IntegrityError(f"index {raw.digest}: manifests must be a list")
        return cls(tuple(Descriptor.from_json(item) for item in manifests), _annotations(value))

    def to_raw(self) -> RawManifest:
        """Serialize the index; the bytes depend on its values only."""
        value = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [item.to_json() for item in self.manifests],
            "annotations": dict(sorted(self.annotations.items())),
        }
        return RawManifest(INDEX, canonical_json(value))


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """An image config (image-spec config.md): platform, labels, the diff_ids of the layers."""

    raw: Mapping[str, Any]

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Parse a config blob; raises IntegrityError."""
        return cls(parse_object(data, "image config"))

    @property
    def platform(self) -> Platform:
        """The platform of the image."""
        return Platform.from_json(self.raw)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """The digests of the uncompressed layers, from the bottom up; raises IntegrityError."""
        rootfs = self.raw.get("rootfs")
        values = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        try:
            return tuple(Digest.parse(str(value)) for value in values or ())
        except (UsageError, TypeError) as error:
            raise IntegrityError(f"image config: invalid diff_ids: {error}") from error

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the image."""
        config = self.raw.get("config")
        labels = config.get("Labels") if isinstance(config, dict) else None
        return {str(k): str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def canonical_json(value: object) -> bytes:
    """Serialize JSON as llmstack writes it into images: compact, UTF-8, members in the order given."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse `data` as a JSON object; raises IntegrityError, which names `what`.

    Accepts only what can be processed and written again: int64 integers, finite floats, Unicode without lone
    surrogates, and at most 64 levels.
    """
    try:
        text = data.decode()
        value = JSON_DECODER.decode(text)
        check_json(value, text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what}: invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{what}: must be a JSON object")
    return value


def check_json(value: object, text: str) -> None:
    """Raise ValueError if a value that JSON_DECODER read from `text` is too deep or has a lone surrogate."""
    level: list[Any] = [[value]]
    for _ in range(_MAX_JSON_DEPTH + 1):
        containers = [item.values() if isinstance(item, dict) else item for item in level]
        level = [inner for items in containers for inner in items if isinstance(inner, (dict, list))]
        if not level:
            break
    else:
        raise ValueError(f"more than {_MAX_JSON_DEPTH} levels")
    if _SURROGATE_ESCAPE.search(text):
        canonical_json(value)


def _integer(digits: str) -> int:
    if len(digits) > len(str(_MAX_INTEGER)) + 1 or not -_MAX_INTEGER - 1 <= int(digits) <= _MAX_INTEGER:
        raise ValueError(f"integer {digits[:24]} does not fit into 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"number {digits[:24]} is too large")
    return number


JSON_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_float)


def is_tar(media_type: str) -> bool:
    """Tell whether a layer of this media type is a tar, compressed or not."""
    return not media_type or _TAR.search(media_type) is not None


def media_type_of(value: Mapping[str, Any]) -> str:
    """Return the media type of a manifest or an index, inferred from its members if it has no mediaType."""
    declared = value.get("mediaType")
    if isinstance(declared, str):
        return declared
    return INDEX if "manifests" in value else MANIFEST


def subject_of(raw: RawManifest) -> Digest | None:
    """Return the digest of the manifest that this one refers to, for example of a signed image; None for an image."""
    subject = raw.json().get("subject")
    return None if subject is None else Descriptor.from_json(subject).digest


def _annotations(value: Mapping[str, Any]) -> dict[str, str]:
    annotations = value.get("annotations")
    return {str(k): str(v) for k, v in annotations.items()} if isinstance(annotations, dict) else {}
