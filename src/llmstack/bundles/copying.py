"""`llmstack copy`: images from one namespace, registry or layout to another, with everything that refers to them."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from threading import Event
from typing import Any, Literal

from llmstack.bundles.document import StoredBlob
from llmstack.bundles.found_images import FoundImage, ImagesRequest, find_images
from llmstack.bundles.target import Target
from llmstack.carried_image.image_location import (
    ArchiveLocation,
    EngineLocation,
    LayoutLocation,
    is_image,
    parse_location,
)
from llmstack.carried_image.naming import Namespace
from llmstack.errors import IntegrityError, LlmstackError, UsageError
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Registries
from llmstack.oci.spec import Descriptor
from llmstack.oci.store import BlobReader
from llmstack.reporting import Reporter


@dataclass(frozen=True, slots=True)
class CopiedImage:
    """An image in the destination, and what was done."""

    image: str
    digest: str
    status: Literal["copied", "up-to-date", "planned"]


@dataclass(frozen=True, slots=True)
class CopyResult:
    """The result of copy, with the fields of `copy --json`. Sizes are bytes of configs and layers."""

    images: tuple[CopiedImage, ...]
    bytes_total: int
    bytes_transferred: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the object for `copy --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Destination:
    """A namespace, and the name of a single image in it if one was given."""

    namespace: Namespace
    repository: str | None = None
    tag: str | None = None


class _Sources:
    """The blobs of images in several repositories; implements BlobSupply."""

    def __init__(self, images: Sequence[FoundImage]) -> None:
        self._readers: Mapping[Digest, BlobReader] = {
            blob.digest: image.reader for image in images for blob in image.graph.blobs
        }

    def read_blob(self, blob: Descriptor, /) -> Generator[bytes, None, None]:
        """Yield a blob; see BlobSupply."""
        return self._readers[blob.digest].read_blob(blob)

    def damage(self, blob: Descriptor, error: LlmstackError) -> LlmstackError:
        """Name the repository; see BlobSupply."""
        return IntegrityError(f"{self._readers[blob.digest].name}: {error.message}", side="source")

    def mountable(self, digest: Digest) -> BlobReader | None:
        """Return the repository that has a blob; see BlobSupply."""
        return self._readers[digest]


def copy(
    source: str,
    destination: str,
    registries: Registries,
    cancel: Event,
    reporter: Reporter,
    *,
    jobs: int,
    dry_run: bool = False,
) -> CopyResult:
    """Copy an image, or all images of a namespace. Tags are written last; raises LlmstackError."""
    started = time.monotonic()
    request = _request(source)
    goal = _destination(destination, single=bool(request.images))
    found = [_renamed(image, goal) for image in find_images(request, registries, cancel, jobs)]
    target = Target(goal.namespace, registries)
    images = [image.bundled for image in found]
    current = target.current(images, jobs, cancel)
    new = [image for image in found if current[image.bundled.name].digest != image.raw.digest]
    blobs = _blobs(new)
    absent = target.without(blobs, jobs, cancel)
    transferred = sum({blob.digest: blob.size for blob in absent}.values())
    if not dry_run:
        _write(target, new, absent, jobs, cancel, reporter)
    done: Literal["copied", "planned"] = "planned" if dry_run else "copied"
    names = {image.bundled.name for image in new}
    return CopyResult(
        tuple(
            CopiedImage(target.name_of(image), image.manifest.digest, done if image.name in names else "up-to-date")
            for image in images
        ),
        sum({blob.digest: blob.size for blob in blobs}.values()),
        0 if dry_run else transferred,
        round(time.monotonic() - started, 3),
    )


def _write(
    target: Target,
    images: Sequence[FoundImage],
    blobs: Sequence[StoredBlob],
    jobs: int,
    cancel: Event,
    reporter: Reporter,
) -> None:
    reporter.begin("copy", sum({blob.digest: blob.size for blob in blobs}.values()))
    try:
        target.upload(blobs, _Sources(images), jobs, cancel, reporter)
    finally:
        reporter.end()
    for image in images:
        target.write_manifests(image.bundled, image.graph, image.reader)
    for image in images:
        if image.tag:
            target.tag(image.bundled)


def _blobs(images: Sequence[FoundImage]) -> list[StoredBlob]:
    found = {
        (image.repository, blob.digest): StoredBlob(image.repository, blob.digest, blob.size)
        for image in images
        for blob in image.graph.blobs
    }
    return list(found.values())


def _request(source: str) -> ImagesRequest:
    """Read SOURCE: an image with a tag, or a namespace, a layout or an archive with all of its images."""
    if is_image(source):
        location = parse_location(source)
        if isinstance(location, EngineLocation):
            raise UsageError(
                f"{source}: copy reads registries, layouts and archives", hint=f"docker push {location.name}"
            )
        if not isinstance(location, LayoutLocation | ArchiveLocation):
            registry = location.reference.registry
            if location.reference.tag or location.reference.digest:
                return ImagesRequest((source,), None, Namespace(registry, ""))
        elif location.reference:
            return ImagesRequest((source,), None, Namespace(None, location.path))
    return ImagesRequest((), source, Namespace.parse("oci:.") if source.startswith("oci") else Namespace.parse(source))


def _destination(text: str, *, single: bool) -> _Destination:
    """Read DEST: a namespace, or for a single image the name that it gets."""
    location = parse_location(text) if is_image(text) else None
    if isinstance(location, EngineLocation | ArchiveLocation):
        raise UsageError(f"{text}: copy writes to registries and layouts", hint="write registry/path or oci:DIR")
    if isinstance(location, LayoutLocation) and location.reference:
        folder, _, repository = location.path.rstrip("/").rpartition("/")
        named = _Destination(Namespace(None, folder or "."), repository, location.reference)
    elif location is not None and not isinstance(location, LayoutLocation) and location.reference.tag:
        path, _, repository = location.reference.repository.rpartition("/")
        named = _Destination(Namespace(location.reference.registry, path), repository, location.reference.tag)
    else:
        return _Destination(Namespace.parse(text))
    if not single:
        raise UsageError(f"{text}: names one image, and the source is a namespace", hint="leave the tag out")
    return named


def _renamed(image: FoundImage, goal: _Destination) -> FoundImage:
    if goal.repository is None:
        return image
    signature = image.tag is None or image.tag.startswith("sha256-")
    return replace(image, repository=goal.repository, tag=image.tag if signature else goal.tag)
