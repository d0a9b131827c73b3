"""The repositories of a namespace: models, datasets and those of other images, by their names in the namespace."""

from __future__ import annotations

from pathlib import Path

from llmstack.bundles.document import RESERVED_REPOSITORY
from llmstack.carried_image.image_location import require_directory
from llmstack.carried_image.naming import Namespace
from llmstack.disk import exists
from llmstack.errors import UsageError
from llmstack.hf.snapshot import REPO_TYPES
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Reference
from llmstack.oci.registry_lists import list_repositories
from llmstack.oci.repository import Registries
from llmstack.oci.store import BlobStore

# A namespace has few levels; a directory may have many.
_MAX_DEPTH = 4


class Repositories:
    """Opens the repositories of a namespace in a registry or a directory."""

    def __init__(self, namespace: Namespace, registries: Registries) -> None:
        self.namespace = namespace
        self._registries = registries

    @property
    def is_directory(self) -> bool:
        """Tell whether the namespace is a directory of OCI layouts."""
        return self.namespace.registry is None

    def open(self, repository: str, *, write: bool = False) -> BlobStore:
        """Return a repository, without a request."""
        if self.namespace.registry is None:
            return Layout(Path(self.namespace.path) / repository)
        return self._registries.repository(Reference.parse(f"{self.namespace}/{repository}"), write=write)

    def image(self, repository: str, tag: str) -> str:
        """Return the name of an image in the namespace."""
        return f"{self.open(repository).name}:{tag}"

    def names(self) -> tuple[list[str], bool]:
        """Return the repositories, and whether these are all: many registries do not list their repositories.

        Raises NotFoundError if the directory does not exist, UsageError if it is a single layout.
        """
        known = {f"{repo_type}s" for repo_type in REPO_TYPES}
        if self.namespace.registry is None:
            require_directory(self.namespace.path)
            if exists(Path(self.namespace.path) / "index.json"):
                raise UsageError(
                    f"{self.namespace} is one OCI layout, not a namespace",
                    hint="name the directory that ferry --to named",
                )
            return _layouts(Path(self.namespace.path)), True
        listed = list_repositories(self._registries.registry(self.namespace.registry))
        prefix = f"{self.namespace.path}/" if self.namespace.path else ""
        found = {name.removeprefix(prefix) for name in listed or () if name.startswith(prefix)}
        return sorted((found or known) - {RESERVED_REPOSITORY}), listed is not None

    def name_of(self, reference: Reference) -> str:
        """Return the name of a repository: in this namespace, or for one elsewhere its last component."""
        own = f"{self.namespace}/"
        full = f"{reference.registry}/{reference.repository}"
        return full.removeprefix(own) if full.startswith(own) else reference.repository.rpartition("/")[2]


def _layouts(folder: Path) -> list[str]:
    found = []
    for index in sorted(folder.rglob("index.json")):
        name = index.parent.relative_to(folder).as_posix()
        if name != RESERVED_REPOSITORY and name.count("/") < _MAX_DEPTH and (index.parent / "oci-layout").exists():
            found.append(name)
    return found
