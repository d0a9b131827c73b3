"""`llmstack list`: the images of a namespace, a layout or an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Event

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.image import for_platform, host_platform, image_of
from llmstack.carried_image.image_location import parse_source
from llmstack.carried_image.naming import Namespace, is_leftover, is_referrer_tag, is_tag_of
from llmstack.carried_image.open_location import ImageReader, open_readers
from llmstack.errors import LlmstackError, NotFoundError
from llmstack.hf.snapshot import REPO_TYPES, RepoType
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.repository import Registries
from llmstack.oci.spec import INDEX_TYPES, Index, Manifest
from llmstack.oci.store import BlobReader

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

    A tag costs two requests, and two more if its manifests have lost their annotations. Raises LlmstackError if the
    tags cannot be listed.
    """
    parsed = namespace if source is None else parse_source(source)
    tags = [(found.reader, tag) for found in open_readers(parsed, repo_types, registries) for tag in _tags(found)]
    images = run_all(lambda item: _describe(*item), tags, jobs, cancel)
    return [image for (_, tag), image in zip(tags, images, strict=True) if image and not _is_leftover(tag, image)]


def _tags(found: ImageReader) -> list[str]:
    tags = [tag for tag in found.reader.tags() if not is_referrer_tag(tag)]
    # The only image of a layout or an archive needs no tag.
    return tags or ([""] if found.repo_type is None else [])


def _describe(reader: BlobReader, tag: str) -> ListedImage | None:
    """Describe the image of a tag. The empty tag stands for the only image; None if the reader has no image."""
    listed = ListedImage(f"{reader.name}:{tag}" if tag else reader.name)
    try:
        raw = reader.manifest(tag)
        manifest, platforms = for_platform(reader, raw, host_platform())
        listed = replace(listed, size=sum(layer.size for layer in manifest.layers))
        notes = Index.parse(raw).annotations if raw.media_type in INDEX_TYPES else {}
        notes = {**manifest.annotations, **notes}
        if _are_reliable(notes, manifest):
            return _identified(listed, tag, notes)
        image = image_of(reader, raw, manifest, platforms)
    except Cancelled:
        raise
    except LlmstackError as error:
        return None if not tag and isinstance(error, NotFoundError) else replace(listed, error=error.message)
    if image.is_artifact:
        return replace(listed, error=f"an artifact ({manifest.config.media_type}), not an image")
    return _identified(listed, tag, image.labels) if image.index else replace(listed, error=image.index_problem)


def _are_reliable(notes: Mapping[str, str], manifest: Manifest) -> bool:
    """Tell whether annotations are those of ferry: other programs keep them when they append or rewrite layers."""
    last = manifest.layers[-1].annotations if manifest.layers else {}
    rewritten = any(_ESTARGZ in layer.annotations for layer in manifest.layers)
    return annotation_keys.REPO_ID in notes and last.get(annotation_keys.LAYER) == "index" and not rewritten


def _identified(listed: ListedImage, tag: str, notes: Mapping[str, str]) -> ListedImage:
    """Add what an image's annotations or labels claim, unless its tag contradicts them."""
    repo_id, revision = notes.get(annotation_keys.REPO_ID, ""), notes.get(annotation_keys.REVISION, "")
    if tag and not is_tag_of(tag.rpartition(":")[2], repo_id, revision):
        return replace(listed, error=f"it claims to be {repo_id}@{revision}, its tag does not")
    return replace(
        listed,
        repo_id=repo_id,
        repo_type=next((known for known in REPO_TYPES if known == notes.get(annotation_keys.REPO_TYPE)), None),
        revision=revision,
        commit=notes.get(annotation_keys.COMMIT),
        license=notes.get(annotation_keys.LICENSES),
        created=notes.get(annotation_keys.CREATED),
        incomplete=annotation_keys.INCOMPLETE in notes,
    )


def _is_leftover(tag: str, image: ListedImage) -> bool:
    return bool(image.repo_id and not image.incomplete and is_leftover(tag, image.repo_id, image.revision or ""))
