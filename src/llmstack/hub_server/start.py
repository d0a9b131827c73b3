"""From what a person named to the shelf that is served."""

from __future__ import annotations

from collections.abc import Callable

from llmstack.carried_image.locate import transport_of
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.places import open_places
from llmstack.errors import UsageError
from llmstack.hf.snapshot import REPO_TYPES
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.net import RetryPolicy
from llmstack.oci.repository import Registries

# Kept to the registry, for as many clients as are often there at once.
CONNECTIONS = 64
# A client waits behind each request, and tries again itself: it is told soon that the registry is away.
RETRY_POLICY = RetryPolicy(tries=3, longest_retry_after=2.0)


def open_shelf(
    source: str | None, namespace: Namespace, registries: Registries, jobs: int, note: Callable[[str], None]
) -> RepoIndex:
    """Return the shelf of `source` (`--from`; None: `namespace`), nothing of it read yet; raises UsageError."""
    if source is not None and transport_of(source) not in {None, "docker", "oci"}:
        raise UsageError(f"--from {source}: a hub serves a namespace or an OCI layout", hint="as in oci:./carried")
    places = open_places(source, namespace, REPO_TYPES, registries)
    return RepoIndex(source or str(namespace), places, jobs, note)
