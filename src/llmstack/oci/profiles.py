"""Limits of registry services beyond the distribution spec; docs/reference/registries.md names the sources.

All registries get layers in the same way as from `docker push`: one PATCH of unknown length, then a PUT. They differ in
the largest layer that they accept, and in what must exist before a push.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GB = 1000**3
_MiB = 1024**2
_GiB = 1024**3


@dataclass(frozen=True, slots=True)
class Profile:
    """A registry service: `hosts` is a pattern for its `host[:port]`, `max_layer` is in bytes (None: unknown)."""

    name: str
    hosts: str
    max_layer: int | None = None
    missing_hint: str | None = None


# The first match counts. Self-hosted registries (Harbor, zot, Quay, distribution) have no common host names, and their
# operators set the limits: only their responses (413, 400) show them.
PROFILES = (
    Profile("Docker Hub", r"docker\.io"),
    Profile("GitHub Container Registry", r"ghcr\.io", max_layer=10 * _GB),
    Profile(
        "Amazon ECR Public",
        r"public\.ecr\.aws",
        10_000 * _MiB,
        "create the repository first: ECR does not create it on push",
    ),
    Profile(
        "Amazon ECR",
        r"\d+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)",
        52_000 * _MiB,
        "create the repository first: ECR does not create it on push",
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
    """Return the profile of the registry at `host[:port]`."""
    return next((profile for profile in PROFILES if re.fullmatch(profile.hosts, registry)), _OTHER)
