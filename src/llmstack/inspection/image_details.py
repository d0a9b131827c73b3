"""`llmstack inspect`: what one image is, its layers and its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmstack.carried_image.file_index import FileIndex, IndexedFile
from llmstack.carried_image.image import Image
from llmstack.carried_image.source import Source


@dataclass(frozen=True, slots=True)
class LayerDetails:
    """One layer as it is stored, and how many files lie in it, whole or in part; `size` is of the blob."""

    digest: str
    media_type: str
    size: int
    files: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """One image. `digest` and `layers` are empty for an image in a Docker engine, which does not tell them.

    `index` is None for images that llmstack did not write; `files` are its files.
    """

    image: str
    digest: str | None
    platforms: tuple[str, ...]
    labels: Mapping[str, str]
    layers: tuple[LayerDetails, ...]
    index: FileIndex | None

    @property
    def files(self) -> tuple[IndexedFile, ...]:
        """The files, sorted by path."""
        return self.index.files if self.index else ()


def inspect(source: Source) -> ImageDetails:
    """Describe an opened image."""
    image = source.image
    if not isinstance(image, Image):
        platform = "/".join(str(image.details.get(key)) for key in ("Os", "Architecture"))
        return ImageDetails(source.name, None, (platform,), image.labels, (), source.index)
    held: dict[str, int] = {}
    if source.index:
        stored = image.stored_layers()
        for file in source.index.files:
            for part in file.ranges:
                layer = stored.get(part.layer)
                digest = str(layer.blob.digest if layer else part.layer)
                held[digest] = held.get(digest, 0) + 1
    return ImageDetails(
        image=source.name,
        digest=image.raw_manifest.digest,
        platforms=tuple(str(platform) for platform in image.platforms),
        labels=image.config.labels,
        layers=tuple(
            LayerDetails(layer.digest, layer.media_type, layer.size, held.get(layer.digest, 0))
            for layer in image.manifest.layers
        ),
        index=source.index,
    )
