"""The base image that a carried image stands on, so that it can be run and not only read."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.carried_image.locate import parse_location
from llmstack.carried_image.source import open_reader
from llmstack.errors import IntegrityError, LlmstackError, UsageError
from llmstack.oci.reference import Digest, Reference
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
# What models are served on. A base may have more platforms; each would only add manifests that nobody pulls.
ARCHITECTURES = ("amd64", "arm64")


@dataclass(frozen=True, slots=True)
class BasePlatform:
    """A base's image for one platform: its config, and its layers from the lowest up."""

    platform: Platform
    config: ImageConfig
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Base:
    """A base image: one entry per platform, and where its layers are copied from (None: it has none).

    `name` and `digest` are what the image's annotations say of it; a file's name means nothing elsewhere, so a base
    that is not from a registry has none.
    """

    name: str | None
    digest: Digest | None
    platforms: tuple[BasePlatform, ...]
    source: BlobReader | None

    @property
    def depth(self) -> int:
        """The most layers that any platform has."""
        return max(len(entry.layers) for entry in self.platforms)


def load_base(text: str, registries: Registries) -> Base:
    """Resolve `scratch`, a reference, or an image in a layout or an archive.

    Raises what reading an image raises, with `source` as the side, and IntegrityError where it is not a usable image.
    """
    if text == SCRATCH:
        return scratch()
    location = parse_location(text)
    if location.transport == "docker-daemon":
        raise UsageError(f"--base {text}: a base cannot be read from a Docker engine", hint="push it, or save it first")
    try:
        source, locator = open_reader(location, registries)
        document = source.manifest(locator)
        platforms = tuple(_load_platform(source, item) for item in _manifests(source, document))
    except LlmstackError as error:
        error.side = "base image"
        raise
    name = str(Reference.parse(location.place)) if location.transport == "docker" else None
    return Base(name, document.digest, platforms, source)


def scratch(platforms: int = len(ARCHITECTURES)) -> Base:
    """Return the base without a layer, for the first so many platforms."""
    return Base(None, None, tuple(map(_empty, ARCHITECTURES[:platforms])), None)


def _empty(architecture: str) -> BasePlatform:
    platform = Platform("linux", architecture, "v8" if architecture == "arm64" else None)
    return BasePlatform(platform, ImageConfig(dict(platform.to_json())), ())


def _manifests(source: BlobReader, document: RawManifest) -> list[RawManifest]:
    """Return the manifests of the platforms that are kept; all of a base that is for none of the usual ones."""
    if document.media_type not in INDEX_TYPES:
        return [document]
    # Build attestations are listed beside images, for the platform unknown/unknown.
    images = [item for item in Index.parse(document).manifests if item.platform and item.platform.os == "linux"]
    usual = [item for item in images if item.platform and item.platform.architecture in ARCHITECTURES]
    if not images:
        raise IntegrityError(f"{source.name}@{document.digest} holds no image for Linux")
    return [source.manifest(item.digest) for item in usual or images]


def _load_platform(source: BlobReader, document: RawManifest) -> BasePlatform:
    manifest = Manifest.parse(document)
    config = ImageConfig.parse(read_verified(source, manifest.config, MAX_CONFIG_SIZE))
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(f"{source.name}@{document.digest}: its config and its manifest list different layers")
    return BasePlatform(config.platform, config, manifest.layers)
