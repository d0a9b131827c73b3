"""Open a typed location: one image to read, or the repositories and layouts that hold a namespace's images."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from llmstack.carried_image.image import Image, OpenedImage, open_image
from llmstack.carried_image.image_in_engine import ImageInEngine
from llmstack.carried_image.image_location import (
    ArchiveLocation,
    EngineLocation,
    EngineNamespace,
    ImageRequest,
    ImageSource,
    LayoutLocation,
    RegistryLocation,
    require_directory,
)
from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace, type_of_path
from llmstack.disk import exists
from llmstack.engine.docker_engine import local_engine_has
from llmstack.engine.engine_image import open_engine_image
from llmstack.errors import NotFoundError, UsageError, on_side
from llmstack.hf.snapshot import REPO_TYPES, RepoType
from llmstack.oci.archive import DockerArchive, OciArchive
from llmstack.oci.layout import Layout
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader, BlobStore


@dataclass(frozen=True, slots=True)
class ImageReader:
    """A repository, layout or archive that holds images; `repo_type` is None if it may hold both types.

    `by_tag` is false if its only image needs no tag.
    """

    reader: BlobReader
    repo_type: RepoType | None = None
    by_tag: bool = True


@contextmanager
def open_requested(
    request: ImageRequest, registries: Registries, note: Callable[[str], None], *, prefer_engine: bool = True
) -> Iterator[OpenedImage]:
    """Open the image that was asked for.

    With `prefer_engine`, an image that may be anywhere is read from the local Docker Engine if it is there; `note` is
    called then. Raises NotFoundError, also if the image is of another repo or is a partial image, IntegrityError,
    NotAuthorizedError, UnavailableError.
    """
    location = request.location
    local = request.anywhere and prefer_engine and isinstance(location, RegistryLocation)
    if local and local_engine_has(str(location)):
        note(f"reading {location} from the local Docker Engine")
        location = EngineLocation(str(location))
    if isinstance(location, EngineLocation):
        with open_engine_image(location.name) as engine_image:
            in_engine = ImageInEngine.open(engine_image)
            yield replace(in_engine, confirmed=_is_confirmed(in_engine, request, note))
    else:
        with on_side("source", str(location)):
            image = _open(location, request, registries)
        if image.index_problem:
            note(f"{image.name}: {image.index_problem}; reading it as an image of another maker, without hashes")
        yield replace(image, confirmed=_is_confirmed(image, request, note))


def open_reader(
    location: RegistryLocation | LayoutLocation | ArchiveLocation, registries: Registries
) -> tuple[BlobReader, str]:
    """Return what holds the image, and the tag or digest that it has there."""
    if isinstance(location, RegistryLocation):
        return registries.repository(location.reference), location.reference.locator
    path = Path(location.path)
    if isinstance(location, LayoutLocation):
        if not exists(path / "index.json"):
            require_directory(location.path)
            types = [each for each in REPO_TYPES if exists(Namespace(None, location.path).layout(each))]
            hint = (
                f"it is a namespace with {' and '.join(f'{each}s' for each in types)}: write REPO_ID --from oci:{path}"
            )
            raise NotFoundError(f"{location} is not an OCI layout: it has no index.json", hint=hint if types else None)
        return Layout(path), location.reference
    return (OciArchive if location.transport == "oci-archive" else DockerArchive)(path), location.reference


def open_readers(source: ImageSource, repo_types: Sequence[RepoType], registries: Registries) -> list[ImageReader]:
    """Return what holds a source's images, without a request.

    Raises UsageError for the Docker Engine, NotFoundError for a directory that does not exist.
    """
    if isinstance(source, EngineNamespace):
        raise UsageError("images in the Docker Engine are not listed here", hint="docker image ls")
    if isinstance(source, ArchiveLocation):
        return [ImageReader(open_reader(source, registries)[0], by_tag=False)]
    if isinstance(source, LayoutLocation):
        source = Namespace(None, source.path)
    if source.registry is not None:
        return [ImageReader(registries.repository(source.reference(repo_type)), repo_type) for repo_type in repo_types]
    if exists(Path(source.path) / "index.json"):
        return [ImageReader(Layout(Path(source.path)), type_of_path(source.path), by_tag=False)]
    require_directory(source.path)
    return [ImageReader(Layout(source.layout(repo_type)), repo_type) for repo_type in repo_types]


def open_store(namespace: Namespace, repo_type: RepoType, registries: Registries) -> BlobStore:
    """Return the repository or layout of a namespace to write this type's images to."""
    if namespace.registry is None:
        return Layout(namespace.layout(repo_type))
    return registries.repository(namespace.reference(repo_type), write=True)


def _open(
    location: RegistryLocation | LayoutLocation | ArchiveLocation, request: ImageRequest, registries: Registries
) -> Image:
    reader, reference = open_reader(location, registries)
    if isinstance(location, LayoutLocation) and request.repo_id is not None:
        # A bundle with a model and a dataset of the same id.
        typed = f"{request.repo_type}s/{reference}"
        reference = typed if typed in reader.tags() else reference
    try:
        return open_image(reader, reference, str(location))
    except NotFoundError as error:
        error.side = "source"
        if request.repo_id is None:
            raise
        if isinstance(location, RegistryLocation) or (isinstance(location, LayoutLocation) and reader.tags()):
            option = f" --from {shlex.quote(request.source)}" if request.source else ""
            error.hint = f"{error.hint or 'was it carried?'}; list the images: llmstack list{option}"
            raise
    # The only image of an archive may have any name, that of a layout none. Its file index says which repo it holds.
    return open_image(reader, "", str(location))


def _is_confirmed(image: OpenedImage, request: ImageRequest, note: Callable[[str], None]) -> bool | None:
    """Tell whether the request or the image's tag names the repo and revision that its file index claims.

    None if neither names any. Raises NotFoundError if the image is not what was asked for.
    """
    index = image.index
    if index is None:
        return True
    if request.repo_id is not None and index.repo_id != request.repo_id:
        raise NotFoundError(f"{image.name} holds {index.repo_id}, not {request.repo_id}", side="source")
    if request.repo_id is not None and index.repo_type != request.repo_type:
        raise NotFoundError(
            f"{image.name} holds the {index.repo_type} {index.repo_id}, not a {request.repo_type}",
            hint=f"add --type {index.repo_type}",
            side="source",
        )
    # Two revisions may share a tag.
    if request.repo_id is not None and request.revision not in {DEFAULT_REVISION, index.revision, index.commit}:
        raise NotFoundError(
            f"{image.name} holds {index.repo_id}@{index.revision} (commit {index.commit}), not @{request.revision}",
            side="source",
        )
    if index.incomplete:
        raise NotFoundError(
            f"{image.name} is a partial image: a ferry of {index.repo_id} has not finished",
            hint="rerun that ferry to resume it",
            side="source",
        )
    location = request.location
    if request.repo_id is not None or index.agrees_with(location.tag, location.repo_type):
        return True
    if not location.tag and location.repo_type in {None, index.repo_type}:
        return None
    note(f"{image.name}: its file index claims the {index.claim}, its tag or repository does not: not relying on that")
    return False
