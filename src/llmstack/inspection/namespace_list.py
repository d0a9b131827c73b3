"""`llmstack list`: the images of a namespace, told by their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from llmstack.carried_image import annotation_keys
from llmstack.carried_image.image import for_platform, host_platform
from llmstack.carried_image.image_location import parse_source
from llmstack.carried_image.naming import Namespace, is_leftover
from llmstack.carried_image.open_location import open_readers
from llmstack.errors import LlmstackError
from llmstack.hf.snapshot import RepoType
from llmstack.net import Cancelled
from llmstack.net.parallel import run_all
from llmstack.oci.repository import Registries
from llmstack.oci.spec import INDEX_TYPES, Index, Manifest, RawManifest
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One tag. What images of other makers do not tell is None; `size` is the bytes of all layers.

    `incomplete` marks what a ferry that has not ended has carried so far. `error` says why a tag could not be read; the
    others are listed all the same.
    """

    image: str
    repo_id: str | None = None
    repo_type: str | None = None
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
    """Return the images of `source` (`--from`; None: `namespace`), sorted by name.

    A source is a namespace, an OCI layout or an archive. Two requests per tag, `jobs` at a time. Raises LlmstackError
    when the tags themselves cannot be listed.
    """
    parsed = namespace if source is None else parse_source(source)
    readers = [found.reader for found in open_readers(parsed, repo_types, registries)]
    tags = [(reader, tag) for reader in readers for tag in reader.tags()]
    images = zip(tags, run_all(lambda item: _describe(*item), tags, jobs, cancel), strict=True)
    return [image for (_, tag), image in images if not _is_leftover(tag, image)]


def _describe(reader: BlobReader, tag: str) -> ListedImage:
    image = f"{reader.name}:{tag}"
    try:
        document = reader.manifest(tag)
        notes, manifest = _open(reader, document)
    except Cancelled:
        raise
    except LlmstackError as error:
        return ListedImage(image, error=error.message)
    return ListedImage(
        image=image,
        repo_id=notes.get(annotation_keys.REPO_ID),
        repo_type=notes.get(annotation_keys.REPO_TYPE),
        revision=notes.get(annotation_keys.REVISION),
        commit=notes.get(annotation_keys.COMMIT),
        size=sum(layer.size for layer in manifest.layers),
        license=notes.get(annotation_keys.LICENSES),
        created=notes.get(annotation_keys.CREATED),
        incomplete=annotation_keys.INCOMPLETE in notes,
    )


def _is_leftover(tag: str, image: ListedImage) -> bool:
    named = not image.incomplete and image.repo_id and image.revision
    return bool(named) and is_leftover(tag, image.repo_id or "", image.revision or "")


def _open(reader: BlobReader, document: RawManifest) -> tuple[dict[str, str], Manifest]:
    manifest, _ = for_platform(reader, document, host_platform())
    notes = Index.parse(document).annotations if document.media_type in INDEX_TYPES else {}
    return {**manifest.annotations, **notes}, manifest
