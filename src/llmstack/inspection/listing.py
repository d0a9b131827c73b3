"""`llmstack list`: the images of a namespace, told by their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from llmstack.carried.image import INCOMPLETE_LABEL
from llmstack.carried.locate import parse_location, transport_of
from llmstack.carried.naming import Namespace, is_leftover
from llmstack.carried.parallel import run_all
from llmstack.carried.source import open_reader
from llmstack.errors import LlmstackError, UsageError
from llmstack.hub.snapshot import RepoType
from llmstack.net import Cancelled
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from llmstack.oci.spec import INDEX_TYPES, Document, Index, Manifest
from llmstack.oci.store import BlobReader

_ANNOTATION = "org.opencontainers.image."


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
    tags = [(reader, tag) for reader in _readers(source, namespace, repo_types, registries) for tag in reader.tags()]
    images = zip(tags, run_all(lambda item: _describe(*item), tags, jobs, cancel), strict=True)
    return [image for (_, tag), image in images if not _is_leftover(tag, image)]


def _readers(
    source: str | None, namespace: Namespace, repo_types: Sequence[RepoType], registries: Registries
) -> list[BlobReader]:
    transport = transport_of(source) if source is not None else None
    if source is not None and transport == "docker-daemon":
        raise UsageError("the Docker engine lists its images itself", hint="docker image ls")
    if source is not None and transport in {"oci-archive", "docker-archive"}:
        return [open_reader(parse_location(source), registries)[0]]
    if source is not None:
        namespace = Namespace.parse(source)
    if namespace.registry is None and (Path(namespace.path) / "index.json").exists():
        return [Layout(Path(namespace.path))]
    places = [namespace.repository(repo_type) for repo_type in repo_types]
    if namespace.registry is None:
        return [Layout(Path(place)) for place in places]
    return [registries.repository(Reference.parse(place)) for place in places]


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
        repo_id=notes.get("dev.llmstack.repo-id"),
        repo_type=notes.get("dev.llmstack.repo-type"),
        revision=notes.get(f"{_ANNOTATION}version"),
        commit=notes.get(f"{_ANNOTATION}revision"),
        size=sum(layer.size for layer in manifest.layers),
        license=notes.get(f"{_ANNOTATION}licenses"),
        created=notes.get(f"{_ANNOTATION}created"),
        incomplete=INCOMPLETE_LABEL in notes,
    )


def _is_leftover(tag: str, image: ListedImage) -> bool:
    named = not image.incomplete and image.repo_id and image.revision
    return bool(named) and is_leftover(tag, image.repo_id or "", image.revision or "")


def _open(reader: BlobReader, document: Document) -> tuple[dict[str, str], Manifest]:
    notes: dict[str, str] = {}
    if document.media_type in INDEX_TYPES:
        index = Index.parse(document)
        notes |= index.annotations
        if not index.manifests:
            return notes, Manifest.parse(document)
        document = reader.manifest(index.manifests[0].digest)
    manifest = Manifest.parse(document)
    return {**manifest.annotations, **notes}, manifest
