"""The places that hold a namespace's images: a repository or a layout for each type of repo, to be listed and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstack.carried_image.locate import parse_location, transport_of
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.source import open_reader
from llmstack.disk import exists
from llmstack.errors import NotFoundError, UsageError
from llmstack.hf.snapshot import RepoType
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobReader


@dataclass(frozen=True, slots=True)
class Place:
    """Where images are; `repo_type` is what a namespace keeps there, None for a layout or an archive by itself."""

    reader: BlobReader
    repo_type: RepoType | None = None


def open_places(
    source: str | None, namespace: Namespace, repo_types: Sequence[RepoType], registries: Registries
) -> list[Place]:
    """Return the places that `source` (`--from`; None: `namespace`) names: a namespace, a layout or an archive.

    No request is made yet. Raises UsageError, NotFoundError for a folder that is not there.
    """
    transport = transport_of(source) if source is not None else None
    if source is not None and transport == "docker-daemon":
        raise UsageError("the Docker engine lists its images itself", hint="docker image ls")
    if source is not None and transport in {"oci-archive", "docker-archive"}:
        return [Place(open_reader(parse_location(source), registries)[0])]
    if source is not None:
        namespace = Namespace.parse(source)
    if namespace.registry is None and exists(Path(namespace.path) / "index.json"):
        return [Place(Layout(Path(namespace.path)))]
    names = [(repo_type, namespace.repository(repo_type)) for repo_type in repo_types]
    if namespace.registry is None:
        if not exists(Path(namespace.path)):
            raise NotFoundError(f"{namespace} is not there", hint="is it the folder that ferry --to named?")
        return [Place(Layout(Path(name)), repo_type) for repo_type, name in names]
    return [Place(registries.repository(Reference.parse(name)), repo_type) for repo_type, name in names]
