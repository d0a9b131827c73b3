"""What is known of particular registries beyond the distribution spec; docs/reference/registries.md has the sources.

A layer is always uploaded by one PATCH of unknown length and a PUT, as `docker push` does it. That is what all of these
take, so no registry has a way of its own: what differs is how large a layer may be, and what has to be there first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GB = 1000**3
_MiB = 1024**2
_GiB = 1024**3


@dataclass(frozen=True, slots=True)
class Profile:
    """One registry service: `hosts` matches its whole `host[:port]`, `max_layer` is bytes (None: not known)."""

    name: str
    hosts: str
    max_layer: int | None = None
    missing_hint: str | None = None


# The first that fits counts. Harbor, zot, Quay and distribution of one's own cannot be told by their addresses, and
# their limits are whatever their owners have set: their answers (413, 400) are what tells.
PROFILES = (
    Profile("Docker Hub", r"docker\.io"),
    Profile("GitHub Container Registry", r"ghcr\.io", max_layer=10 * _GB),
    Profile(
        "Amazon ECR Public", r"public\.ecr\.aws", 10_000 * _MiB, "create the repository first: ECR does not by itself"
    ),
    Profile(
        "Amazon ECR",
        r"\d+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)",
        52_000 * _MiB,
        "create the repository first: ECR does not by itself",
    ),
    Profile(
        "Google Artifact Registry",
        r"[a-z0-9-]+-docker\.pkg\.dev",
        missing_hint="create the repository PROJECT/NAME in Artifact Registry first",
    ),
    Profile("Azure Container Registry", r"[a-z0-9-]+\.azurecr\.(io|cn|us)", max_layer=200 * _GiB),
    Profile("Quay", r"quay\.io", max_layer=20 * _GiB),
)
_OTHER = Profile("registry", "")


def profile_of(registry: str) -> Profile:
    """Return what is known of the registry at `host[:port]`."""
    return next((profile for profile in PROFILES if re.fullmatch(profile.hosts, registry)), _OTHER)
