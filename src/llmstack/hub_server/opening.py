"""From an image to what the hub says of it: its revision, and its files."""

from __future__ import annotations

from llmstack.carried_image.image import Image, open_image
from llmstack.carried_image.naming import check_repo_id, is_leftover, repo_of
from llmstack.carried_image.places import Place
from llmstack.errors import UsageError
from llmstack.hub_server.looking import look_through, worth_looking
from llmstack.hub_server.repos import Files, Revision
from llmstack.oci.reference import Digest


def open_revision(place: Place, tag: str, digest: Digest) -> tuple[Revision, Files | None] | None:
    """Open an image by its digest; None for what is no repo: half a repo, a leftover, a signature, an unusable name.

    The files come with it where the image has a file index. Raises NotFoundError, IntegrityError, NotAuthorizedError,
    UnavailableError.
    """
    if tag.startswith("sha256-"):
        return None
    image = open_image(place.reader, digest)
    try:
        return _carried(place, tag, image) if image.index else _foreign(place, tag, image)
    except UsageError:
        return None


def open_files(revision: Revision) -> Files:
    """Return the files of an image; one without a file index is looked through. Raises as `open_revision` does."""
    image = open_image(revision.reader, revision.digest)
    return _files(image) if image.index else look_through(image)


def _carried(place: Place, tag: str, image: Image) -> tuple[Revision, Files] | None:
    index = image.index
    if index is None or index.incomplete or is_leftover(tag, index.repo_id, index.revision):
        return None
    revision = Revision(
        kind=index.repo_type,
        repo_id=check_repo_id(index.repo_id),
        name=index.revision,
        commit=index.commit,
        image=f"{place.reader.name}:{tag}",
        digest=image.raw_manifest.digest,
        size=index.size,
        files=len(index.files),
        license=index.license,
        gated=index.gated,
        created=index.created,
        needs_extract=any(layer.compressed for layer in image.layers_of(index.files).values()),
        reader=place.reader,
    )
    return revision, _files(image)


def _foreign(place: Place, tag: str, image: Image) -> tuple[Revision, None]:
    repo_id, name = repo_of(tag)
    revision = Revision(
        kind=place.repo_type or "model",
        repo_id=repo_id,
        name=name,
        # Clients want a commit of 40 hex digits, and one that changes with the content.
        commit=image.raw_manifest.digest.hex[:40],
        image=f"{place.reader.name}:{tag}",
        digest=image.raw_manifest.digest,
        size=sum(layer.size for layer in image.manifest.layers),
        files=None,
        license=None,
        gated=False,
        created=None,
        needs_extract=not worth_looking(image),
        reader=place.reader,
    )
    return revision, None


def _files(image: Image) -> Files:
    files = image.index.files if image.index else ()
    ordered = sorted(files, key=lambda file: file.path)
    return Files({file.path: file for file in ordered}, image.layers_of(files))
