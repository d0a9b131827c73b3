"""Opening the places that images are written to and read from by name."""

from __future__ import annotations

from pathlib import Path

from llmstack.carried.naming import Namespace
from llmstack.errors import NotFoundError, UsageError
from llmstack.hub.snapshot import RepoType
from llmstack.oci.layout import Layout, split_tag
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader, BlobStore


def open_store(namespace: Namespace, repo_type: RepoType, registries: Registries) -> BlobStore:
    """Return the repository or layout that a namespace keeps this type's images in, to be written to."""
    where = namespace.repository(repo_type)
    if namespace.registry is None:
        return Layout(Path(where))
    return registries.repository(Reference.parse(where), write=True)


def open_image(text: str, registries: Registries) -> tuple[BlobReader, str]:
    """Return the place of an image named `[docker://]REFERENCE` or `oci:FOLDER[:TAG]`, and its tag or digest.

    Raises UsageError for another transport, NotFoundError for a layout without that image.
    """
    if text.startswith("oci:"):
        path, tag = split_tag(text.removeprefix("oci:"))
        layout = Layout(Path(path))
        return layout, tag or _only_tag(layout)
    if text.startswith(("docker-daemon:", "docker-archive:", "oci-archive:")):
        raise UsageError(f"{text}: a base is read from a registry or an OCI layout", hint="push it, or use oci:FOLDER")
    reference = Reference.parse(text.removeprefix("docker://"))
    return registries.repository(reference), reference.locator


def _only_tag(layout: Layout) -> str:
    tags = layout.tags()
    if not tags:
        raise NotFoundError(f"{layout.name} holds no tagged image")
    if len(tags) > 1:
        raise UsageError(f"{layout.name} holds several images", hint=f"add one of: {', '.join(tags[:8])}")
    return tags[0]
