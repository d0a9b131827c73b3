"""`llmstack inspect`: an image's identity, layers and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llmstack.carried_image.file_index import FileIndex, IndexedFile
from llmstack.carried_image.image import OpenedImage


@dataclass(frozen=True, slots=True)
class LayerDetails:
    """One layer as stored, with the number of files that it holds, or parts of; `size` is the blob's."""

    digest: str
    media_type: str
    size: int
    files: int


@dataclass(frozen=True, slots=True)
class ImageDetails:
    """One image. An image in the Docker Engine has no `digest` and no `layers`; only a carried image has an `index`.

    `confirmed` is false if the image's tag contradicts the repo and revision in its index.
    """

    image: str
    digest: str | None
    platforms: tuple[str, ...]
    labels: Mapping[str, str]
    layers: tuple[LayerDetails, ...]
    index: FileIndex | None
    confirmed: bool = True

    @property
    def files(self) -> tuple[IndexedFile, ...]:
        """The files, sorted by path."""
        return self.index.files if self.index else ()


def inspect(image: OpenedImage) -> ImageDetails:
    """Describe an opened image."""
    files: Counter[str] = Counter()
    stored = image.stored_layers() if image.index else {}
    for file in image.index.files if image.index else ():
        files.update(str(stored[layer].blob.digest if layer in stored else layer) for layer in file.layers)
    return ImageDetails(
        image=image.name,
        digest=image.digest,
        platforms=tuple(str(platform) for platform in image.platforms),
        labels=image.labels,
        layers=tuple(
            LayerDetails(layer.digest, layer.media_type, layer.size, files[layer.digest]) for layer in image.layers
        ),
        index=image.index,
        confirmed=image.confirmed is not False,
    )
