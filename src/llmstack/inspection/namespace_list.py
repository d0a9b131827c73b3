"""`llmstack list`: the images of a namespace, a layout or an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.file_index import FileIndex
from llmstack.carried_image.image import for_platform, host_platform, image_of
from llmstack.carried_image.image_location import parse_source
from llmstack.carried_image.naming import (
    MAX_TAG,
    Namespace,
    is_leftover,
    is_referrer_tag,
    is_tag_of,
    tag_of,
    type_of_path,
)
from llmstack.carried_image.open_location import ImageReader, open_readers
from llmstack.errors import LlmstackError, NotFoundError
from llmstack.hf.snapshot import MAX_STRING, REPO_TYPES, RepoType
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.repository import Registries
from llmstack.oci.spec import INDEX_TYPES, LAYER_TAR, Index, Manifest
from llmstack.oci.store import BlobReader

_CLAIMS = (
    annotation_keys.REPO_ID,
    annotation_keys.REPO_TYPE,
    annotation_keys.REVISION,
    annotation_keys.COMMIT,
    annotation_keys.LICENSE,
    annotation_keys.LICENSES,
    annotation_keys.CREATED,
    annotation_keys.INCOMPLETE,
)
# On layers that ferry wrote.
_OF_FERRY = {annotation_keys.FILEPATH, annotation_keys.PART_OF, annotation_keys.LAYER}
# On layers whose tar was rewritten. The file index must be read to find out whether it is usable.
_ESTARGZ = "containerd.io/snapshot/stargz/toc.digest"


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image. Unknown values are None; `size` is the total size of all layers.

    `incomplete` marks a partial image. `error` says why an image could not be read, or not as a carried image.
    """

    image: str
    repo_id: str | None = None
    repo_type: RepoType | None = None
    revision: str | None = None
    commit: str | None = None
    size: int | None = None
    license: str | None = None
    created: str | None = None
    incomplete: bool = False
    error: str | None = None


def list_images(
    source: str | None,
    namespace: Namespace,
    repo_types: Sequence[RepoType],
    registries: Registries,
    cancel: Event,
    jobs: int,
) -> list[ListedImage]:
    """Return the images of `source` (`--from`; None: `namespace`), sorted by name, read with `jobs` requests at a time.

    A tag costs two requests, and two more if its annotations were lost or changed. Raises LlmstackError if the
    tags cannot be listed.
    """
    parsed = namespace if source is None else parse_source(source)
    tags = [(found, tag) for found in open_readers(parsed, repo_types, registries) for tag in _tags(found)]
    images = run_all(lambda item: describe(item[0].reader, item[1], item[0].repo_type), tags, jobs, cancel)
    return [image for (_, tag), image in zip(tags, images, strict=True) if image and not _is_leftover(tag, image)]


def _tags(found: ImageReader) -> list[str]:
    tags = [tag for tag in found.reader.tags() if not is_referrer_tag(tag)]
    # The only image of a layout or an archive needs no tag.
    return tags or ([] if found.by_tag else [""])


def describe(reader: BlobReader, tag: str, repo_type: RepoType | None) -> ListedImage | None:
    """Describe the image of a tag. The empty tag stands for the only image; None if the reader has no image.

    `repo_type` is that of the repository, None if only the tag or the image can tell.
    """
    repo_type = repo_type or type_of_path(_repository_in(tag))
    listed = ListedImage(f"{reader.name}:{tag}" if tag else reader.name)
    try:
        raw = reader.manifest(tag)
        manifest, platforms = for_platform(reader, raw, host_platform())
        listed = replace(listed, size=sum(layer.size for layer in manifest.layers))
        top = Index.parse(raw).annotations if raw.media_type in INDEX_TYPES else manifest.annotations
        if _are_reliable(top, manifest):
            return _confirmed(_annotated(listed, top), listed, tag, repo_type)
        image = image_of(reader, raw, manifest, platforms)
    except Cancelled:
        raise
    except LlmstackError as error:
        return None if not tag and isinstance(error, NotFoundError) else replace(listed, error=error.message)
    if image.artifact_type:
        return replace(listed, error=f"an artifact ({image.artifact_type}), not an image")
    if image.index is None:
        return replace(listed, error=image.index_problem)
    return _confirmed(_indexed(listed, image.index), listed, tag, repo_type)


def _repository_in(tag: str) -> str:
    """Return the repository in the tag of an archive (REPOSITORY:TAG) or of a bundle (REPOSITORY/TAG)."""
    return tag.rpartition(":")[0] or tag.rpartition("/")[0]


def _are_reliable(top: Mapping[str, str], manifest: Manifest) -> bool:
    """Tell whether `top`, the annotations of what a tag names, are those of ferry.

    Ferry writes the same into manifests and index, and stores its layers uncompressed. Other programs keep annotations
    when they append or rewrite layers.
    """
    last = manifest.layers[-1].annotations if manifest.layers else {}
    rewritten = any(
        _ESTARGZ in layer.annotations or (layer.media_type != LAYER_TAR and not _OF_FERRY.isdisjoint(layer.annotations))
        for layer in manifest.layers
    )
    same = all(top.get(key) == manifest.annotations.get(key) for key in _CLAIMS)
    known = annotation_keys.REPO_ID in top and top.get(annotation_keys.REPO_TYPE) in REPO_TYPES
    known = known and all(len(top.get(key, "")) <= MAX_STRING for key in _CLAIMS)
    return known and same and not rewritten and last.get(annotation_keys.LAYER) == "index"


def _annotated(listed: ListedImage, notes: Mapping[str, str]) -> ListedImage:
    return replace(
        listed,
        repo_id=notes.get(annotation_keys.REPO_ID),
        repo_type=next((known for known in REPO_TYPES if known == notes.get(annotation_keys.REPO_TYPE)), None),
        revision=notes.get(annotation_keys.REVISION),
        commit=notes.get(annotation_keys.COMMIT),
        license=notes.get(annotation_keys.LICENSE, notes.get(annotation_keys.LICENSES)),
        created=notes.get(annotation_keys.CREATED),
        incomplete=annotation_keys.INCOMPLETE in notes,
    )


def _indexed(listed: ListedImage, index: FileIndex) -> ListedImage:
    return replace(
        listed,
        repo_id=index.repo_id,
        repo_type=index.repo_type,
        revision=index.revision,
        commit=index.commit,
        license=index.license,
        created=index.created,
        incomplete=index.incomplete,
    )


def _confirmed(claim: ListedImage, listed: ListedImage, tag: str, repo_type: RepoType | None) -> ListedImage:
    """Return `claim` if the tag and the repository's type agree with it; without a tag, if it names a repo id."""
    repo_id, revision = claim.repo_id or "", claim.revision or ""
    named = tag.removeprefix(_repository_in(tag)).lstrip(":/") or tag_of(repo_id, revision)
    if repo_type in {None, claim.repo_type} and is_tag_of(named, repo_id, revision):
        return claim
    claimed = f"{claim.repo_type} {repo_id[:MAX_TAG]}@{revision[:MAX_TAG]}"
    return replace(listed, error=f"it claims to be the {claimed}, its tag or repository does not")


def _is_leftover(tag: str, image: ListedImage) -> bool:
    return bool(image.repo_id and not image.incomplete and is_leftover(tag, image.repo_id, image.revision or ""))
