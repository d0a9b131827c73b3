"""Load the base image of carried images, from a registry, an OCI layout or an archive."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.carried_image.image_location import EngineLocation, RegistryLocation, parse_location
from llmstack.carried_image.open_location import open_reader
from llmstack.errors import IntegrityError, LlmstackError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
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

SCRATCH = "scratch"
# The platforms that models are served on. Others of a base are left out: each would add a manifest.
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True, slots=True)
class BasePlatform:
    """The base image for one platform: its config, and its layers from the lowest up."""

    platform: Platform
    config: ImageConfig
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class BaseImage:
    """A base image: one entry per platform, and the source of its layers (None for `scratch`).

    `name` and `digest` are for the annotations of carried images. Only a base from a registry has a name: a file name
    is meaningless on other machines.
    """

    name: str | None
    digest: Digest | None
    platforms: tuple[BasePlatform, ...]
    source: BlobReader | None

    @property
    def layer_count(self) -> int:
        """The number of layers of the platform with the most."""
        return max(len(entry.layers) for entry in self.platforms)


def load_base(text: str, registries: Registries) -> BaseImage:
    """Load `scratch`, an image reference, or an image in an OCI layout or an archive.

    Raises the errors of reading an image, with `base image` as the side, and IntegrityError for an unusable image.
    """
    if text == SCRATCH:
        return scratch()
    location = parse_location(text)
    if isinstance(location, EngineLocation):
        raise UsageError(
            f"--base {text}: a base image cannot be read from Docker Engine",
            hint="push it to a registry, or save it with: docker save",
        )
    try:
        source, locator = open_reader(location, registries)
        raw = source.manifest(locator)
        platforms = tuple(_load_platform(source, manifest) for manifest in _platform_manifests(source, raw))
    except LlmstackError as error:
        error.side = "base image"
        error.hint = error.hint or "name one that this machine can reach with --base, or use none with --base scratch"
        raise
    name = str(location.reference) if isinstance(location, RegistryLocation) else None
    return BaseImage(name, raw.digest, platforms, source)


def scratch(platforms: int = len(ARCHITECTURES)) -> BaseImage:
    """Return the base without layers, for the first `platforms` platforms."""
    return BaseImage(None, None, tuple(map(_empty, ARCHITECTURES[:platforms])), None)


def _empty(architecture: str) -> BasePlatform:
    platform = Platform("linux", architecture, "v8" if architecture == "arm64" else None)
    return BasePlatform(platform, ImageConfig(dict(platform.to_json())), ())


def _platform_manifests(source: BlobReader, raw: RawManifest) -> list[RawManifest]:
    """Return the manifests for ARCHITECTURES, or all Linux manifests if there are none."""
    if raw.media_type not in INDEX_TYPES:
        return [raw]
    # Build attestations are listed as images for the platform unknown/unknown.
    images = [item for item in Index.parse(raw).manifests if item.platform and item.platform.os == "linux"]
    preferred = [item for item in images if item.platform and item.platform.architecture in ARCHITECTURES]
    if not images:
        raise IntegrityError(f"{source.name}@{raw.digest}: no image for Linux")
    return [source.manifest(item.digest) for item in preferred or images]


def _load_platform(source: BlobReader, raw: RawManifest) -> BasePlatform:
    manifest = Manifest.parse(raw)
    config = ImageConfig.parse(read_verified(source, manifest.config, MAX_CONFIG_SIZE))
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(f"{source.name}@{raw.digest}: config and manifest list different numbers of layers")
    return BasePlatform(config.platform, config, manifest.layers)
