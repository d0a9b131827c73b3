"""Opening the places that images are written to."""

from __future__ import annotations

from pathlib import Path

from llmstack.carried_image.naming import Namespace
from llmstack.hf.snapshot import RepoType
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobStore


def open_store(namespace: Namespace, repo_type: RepoType, registries: Registries) -> BlobStore:
    """Return the repository or layout that a namespace keeps this type's images in, to be written to."""
    where = namespace.repository(repo_type)
    if namespace.registry is None:
        return Layout(Path(where))
    return registries.repository(Reference.parse(where), write=True)
