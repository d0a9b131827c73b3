"""Find the images to save or to copy, with everything that they consist of and everything that refers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from llmstack.bundles.document import RESERVED_REPOSITORY, BundledImage
from llmstack.bundles.repositories import Repositories
from llmstack.carried_image import annotation_keys
from llmstack.carried_image.image_location import (
    ArchiveLocation,
    EngineLocation,
    EngineNamespace,
    ImageSource,
    LayoutLocation,
    RegistryLocation,
    has_transport,
    is_image,
    locate,
    parse_source,
)
from llmstack.carried_image.naming import PARTIAL, Namespace, is_leftover, is_referrer_tag, type_of_path
from llmstack.carried_image.open_location import open_reader
from llmstack.disk import exists
from llmstack.engine.streamed_image import StreamedImage
from llmstack.errors import IntegrityError, NotFoundError, UsageError, on_side
from llmstack.hf.snapshot import REPO_TYPES, RepoType
from llmstack.net.parallel import run_all
from llmstack.oci.graph import ImageGraph, read_graph
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest, Reference, is_registry, is_repository, is_tag
from llmstack.oci.repository import Registries
from llmstack.oci.spec import RawManifest
from llmstack.oci.store import BlobReader

_MAX_REFERRERS = 1000


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, or with no tag what refers to one; `repository` is its name in a namespace."""

    repository: str
    tag: str | None
    reader: BlobReader
    raw: RawManifest
    graph: ImageGraph

    @property
    def bundled(self) -> BundledImage:
        """The entry in a bundle."""
        created = _annotations(self.raw).get(annotation_keys.CREATED, "")
        return BundledImage(self.repository, self.tag, self.raw.descriptor, str(created)[:80])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Where an image is; `repository` is None if only its manifest can tell, `tag` if it is the reference."""

    reader: BlobReader
    reference: str
    repository: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class ImagesRequest:
    """The images that are named, of `source` (None: `namespace`); all images of the source if none is named."""

    images: tuple[str, ...]
    source: str | None
    namespace: Namespace
    repo_type: RepoType = "model"

    @property
    def origin(self) -> ImageSource:
        """The source; raises UsageError."""
        return self.namespace if self.source is None else parse_source(self.source)

    def repositories(self, registries: Registries) -> Repositories:
        """Return the repositories of the source; of the namespace if the source is an archive or a single layout."""
        origin = self.origin
        if isinstance(origin, LayoutLocation) and not exists(Path(origin.path) / "index.json"):
            origin = Namespace(None, origin.path)
        return Repositories(origin if isinstance(origin, Namespace) else self.namespace, registries)


def find_images(
    request: ImagesRequest,
    registries: Registries,
    cancel: Event,
    jobs: int,
    pinned: Mapping[str, Digest] | None = None,
) -> list[FoundImage]:
    """Return the images that were asked for, each followed by what refers to it.

    With `pinned`, exactly the images of these names are returned, with these digests, whatever their tags name now.
    Raises LlmstackError.
    """
    with on_side("source"):
        if request.images:
            wanted = [_named(argument, request, registries) for argument in request.images]
        else:
            wanted = _all(request.origin, registries)
        read = partial(_read, keep_partial=bool(request.images), pinned=pinned)
        groups = run_all(read, wanted, jobs, cancel)
    found: dict[str, FoundImage] = {}
    for image in (image for group in groups for image in group):
        name = image.bundled.name
        if found.setdefault(name, image).raw.digest != image.raw.digest:
            raise UsageError(f"{name}: two images have this name in the bundle", hint="save them in two bundles")
    if pinned is not None:
        found = {name: image for name, image in found.items() if name in pinned}
        if lost := sorted(pinned.keys() - found.keys()):
            raise NotFoundError(
                f"{lost[0]}: not found", hint="remove the unfinished bundle and save again", side="source"
            )
    return list(found.values())


def _all(origin: ImageSource, registries: Registries) -> list[_Wanted]:
    if isinstance(origin, EngineNamespace):
        raise UsageError("not all images of the Docker Engine can be taken", hint="name them: docker-daemon:IMAGE")
    if isinstance(origin, ArchiveLocation) or (
        isinstance(origin, LayoutLocation) and exists(Path(origin.path) / "index.json")
    ):
        reader, _ = open_reader(origin, registries)
        return [_Wanted(reader, tag) for tag in reader.tags() if not is_referrer_tag(tag.rpartition("/")[2])]
    space = Repositories(Namespace(None, origin.path) if isinstance(origin, LayoutLocation) else origin, registries)
    wanted = []
    for name in space.names()[0]:
        reader = space.open(name)
        wanted += [_Wanted(reader, tag, name) for tag in reader.tags() if not is_referrer_tag(tag)]
    if not wanted:
        raise NotFoundError(f"{space.namespace}: no images found", hint="was anything carried to it?")
    return wanted


def _named(argument: str, request: ImagesRequest, registries: Registries) -> _Wanted:
    space = request.repositories(registries)
    if in_namespace := _split(argument):
        repository, tag = in_namespace
        if repository == RESERVED_REPOSITORY:
            raise UsageError(f"{argument}: llmstack load keeps its records in this repository; it is not an image")
        return _Wanted(space.open(repository), tag, repository)
    source = None if is_image(argument) else request.source
    located = locate(argument, source, request.repo_type, request.namespace)
    location = located.location
    if isinstance(location, EngineLocation):
        if not location.tag:
            raise UsageError(f"{argument}: has no tag to load it under", hint="name the image by its tag")
        name = f"{request.repo_type}s" if located.repo_id else space.name_of(Reference.parse(location.name))
        return _Wanted(StreamedImage(location.name), "", name, location.tag)
    reader, tag = open_reader(location, registries)
    if located.repo_id is not None:
        return _Wanted(reader, tag, f"{request.repo_type}s")
    if tag.startswith("sha256:"):
        raise UsageError(f"{argument}: has no tag to load it under", hint="name the image by its tag")
    return _Wanted(reader, tag, space.name_of(location.reference) if isinstance(location, RegistryLocation) else None)


def _split(argument: str) -> tuple[str, str] | None:
    """Split NAME:TAG, an image of the namespace; None for anything else."""
    name, _, tag = argument.rpartition(":")
    elsewhere = has_transport(argument) or ("/" in name and is_registry(name.partition("/")[0]))
    return (name, tag) if is_repository(name) and is_tag(tag) and not elsewhere else None


def _read(wanted: _Wanted, *, keep_partial: bool, pinned: Mapping[str, Digest] | None) -> list[FoundImage]:
    """Read an image and its referrers; nothing for a partial image that was not named, and for what is not pinned."""
    reader = wanted.reader
    raw = reader.manifest(wanted.reference)
    repository, tag = wanted.repository, wanted.reference if wanted.tag is None else wanted.tag
    if repository is None:
        repository, tag = _name_by_manifest(reader, wanted.reference, raw)
    if not keep_partial and _is_partial(raw, tag):
        return []
    if pinned is not None:
        digest = pinned.get(f"{repository}:{tag}")
        if digest is None:
            return []
        raw = reader.manifest(digest)
    graph = read_graph(reader, raw)
    image = FoundImage(
        repository, tag, reader, raw, reader.in_order(graph) if isinstance(reader, StreamedImage) else graph
    )
    return [image, *_referrers(image)]


def _referrers(image: FoundImage) -> list[FoundImage]:
    """Return everything that refers to an image or to one of its manifests, and what refers to that."""
    reader, found = image.reader, list[FoundImage]()
    if isinstance(reader, StreamedImage):
        return []
    queue = [manifest.digest for manifest in image.graph.manifests]
    seen = set(queue)
    signatures = {digest.replace(":", "-") for digest in queue}
    for tag in reader.tags():
        # cosign's older scheme: the digest and .sig, .att or .sbom.
        if is_referrer_tag(tag) and "." in tag and tag.partition(".")[0] in signatures:
            raw = reader.manifest(tag)
            found.append(FoundImage(image.repository, tag, reader, raw, read_graph(reader, raw)))
    while queue:
        for item in reader.referrers(queue.pop()):
            if item.digest in seen:
                continue
            raw = reader.manifest(item.digest)
            found.append(FoundImage(image.repository, None, reader, raw, read_graph(reader, raw)))
            seen.add(item.digest)
            queue.append(item.digest)
            if len(found) > _MAX_REFERRERS:
                raise IntegrityError(f"{image.bundled.name}: more than {_MAX_REFERRERS} referrers")
    return found


def _name_by_manifest(reader: BlobReader, reference: str, raw: RawManifest) -> tuple[str, str]:
    """Return repository and tag of an image in a layout or an archive that is not part of a namespace."""
    repository, _, tag = reference.rpartition(":" if ":" in reference else "/")
    if repository and ":" in reference:
        repository = Reference.parse(repository).repository.rpartition("/")[2]
    folder = type_of_path(str(reader.folder)) if isinstance(reader, Layout) else None
    claimed = _annotations(raw).get(annotation_keys.REPO_TYPE)
    repo_type = folder or next((known for known in REPO_TYPES if known == claimed), None)
    repository = repository or (f"{repo_type}s" if repo_type else "")
    if not tag or not repository:
        raise UsageError(
            f"{reader.name}: the image {reference or raw.digest} has no repository and tag to load it under",
            hint="copy it into a registry or to oci:DIR/NAME:TAG first",
        )
    return repository, tag


def _is_partial(raw: RawManifest, tag: str) -> bool:
    notes = _annotations(raw)
    leftover = is_leftover(tag, str(notes.get(annotation_keys.REPO_ID, "")), str(notes.get(annotation_keys.REVISION)))
    return tag.endswith(PARTIAL) and (annotation_keys.INCOMPLETE in notes or leftover)


def _annotations(raw: RawManifest) -> dict[str, Any]:
    notes = raw.json().get("annotations")
    return notes if isinstance(notes, dict) else {}
