"""Opening what a person named, wherever it is: one image to read files, manifests and the file index from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmstack.carried_image.file_index import INDEX_PATH, MAX_INDEX_SIZE, FileIndex
from llmstack.carried_image.image import Image, open_image
from llmstack.carried_image.locate import ImageRequest, Location
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.disk import exists
from llmstack.engine.docker_engine import local_engine_has
from llmstack.engine.engine_image import EngineImage, open_engine_image
from llmstack.errors import NotFoundError, on_side
from llmstack.oci import tar_writer
from llmstack.oci.archive import DockerArchive, OciArchive
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class Source:
    """An opened image: in a Docker engine, or anywhere else that has manifests and blobs."""

    name: str
    image: Image | EngineImage
    index: FileIndex | None


@contextmanager
def open_source(wanted: ImageRequest, registries: Registries, note: Callable[[str], None]) -> Iterator[Source]:
    """Open the image that was asked for; `note` hears when it is taken from the local engine unasked.

    Raises NotFoundError, also when another repo or half a repo is found in its place, IntegrityError,
    NotAuthorizedError, UnavailableError.
    """
    location = wanted.location
    if wanted.anywhere and location.transport == "docker" and local_engine_has(location.place):
        note(f"the local Docker engine holds {location.place}: reading it from there")
        location = Location("docker-daemon", location.place)
    if location.transport == "docker-daemon":
        with open_engine_image(location.place) as daemon:
            yield _checked(Source(str(location), daemon, _engine_index(daemon)), wanted)
    else:
        with on_side("source", str(location)):
            image = _open(location, wanted, registries)
        yield _checked(Source(str(location), image, image.index), wanted)


def open_reader(location: Location, registries: Registries) -> tuple[BlobReader, str]:
    """Return where the image is, and the tag or digest that it has there."""
    if location.transport == "docker":
        reference = Reference.parse(location.place)
        return registries.repository(reference), reference.locator
    path = Path(location.place)
    if location.transport == "oci":
        if not exists(path / "index.json"):
            raise NotFoundError(f"{location} is not an OCI layout", hint="it would hold a file index.json")
        return Layout(path), location.reference
    return (OciArchive if location.transport == "oci-archive" else DockerArchive)(path), location.reference


def _open(location: Location, wanted: ImageRequest, registries: Registries) -> Image:
    reader, reference = open_reader(location, registries)
    try:
        return open_image(reader, reference)
    except NotFoundError as error:
        error.side = "source"
        if wanted.repo_id is None:
            raise
        if location.transport in {"docker", "oci"}:
            error.hint = f"{error.hint or 'not carried there yet?'}; see what is there: llmstack list"
            raise
    # A file that holds one image may have it under any name: what it is, the file index tells.
    return open_image(reader, "")


def _checked(source: Source, wanted: ImageRequest) -> Source:
    index = source.index
    if index is None:
        return source
    if wanted.repo_id is not None and index.repo_id != wanted.repo_id:
        raise NotFoundError(f"{source.name} holds {index.repo_id}, not {wanted.repo_id}", side="source")
    # Where none was asked for, the only image of a file will do; and two revisions may share a tag.
    if wanted.repo_id is not None and wanted.revision not in {DEFAULT_REVISION, index.revision, index.commit}:
        raise NotFoundError(
            f"{source.name} holds {index.repo_id}@{index.revision} (commit {index.commit}), not @{wanted.revision}",
            side="source",
        )
    if index.incomplete:
        raise NotFoundError(
            f"{source.name} is not a whole image: it is what a ferry of {index.repo_id} has carried so far",
            hint="let that ferry end, or run it again: it goes on from there",
            side="source",
        )
    return source


def _engine_index(image: EngineImage) -> FileIndex | None:
    """Return the file index of a carried image; None for any other.

    An index counts only if it is what the uppermost layer holds: else something was built on top of the carried
    image, and the index does not tell of it.
    """
    data = image.read_file(f"/{INDEX_PATH}", MAX_INDEX_SIZE)
    if data is None:
        return None
    digest = hashlib.sha256()
    for chunk in tar_writer.layer([tar_writer.TarFile(INDEX_PATH, len(data))], [[data]]):
        digest.update(chunk)
    return FileIndex.parse([data]) if image.top_layer == f"sha256:{digest.hexdigest()}" else None
