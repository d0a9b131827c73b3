"""Image references and digests: parsing and formatting, no IO.

The grammar is that of the distribution spec ("pulling manifests") and of distribution/reference; names without a
registry get Docker's defaults.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from llmstack.errors import UsageError

DOCKER_HUB = "docker.io"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_REGISTRY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_MAX_REPOSITORY = 255


class Digest(str):
    """A content digest, `sha256:` and 64 lower-case hex digits (image-spec descriptor.md, "Digests")."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return `text` as a Digest; raises UsageError if it is not a digest."""
        if not _DIGEST.fullmatch(text):
            raise UsageError(f"{text!r} is not a digest", hint="a digest is sha256: and 64 hex digits")
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Return the digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self[7:]


@dataclass(frozen=True, slots=True)
class Reference:
    """An image reference: registry, repository, and optionally a tag and a digest."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse `[registry/]repository[:tag][@digest]`; raises UsageError."""
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        head, slash, last = rest.rpartition("/")
        last, colon, tag_text = last.partition(":")
        name = f"{head}{slash}{last}"
        registry, repository = _split_registry(name)
        if colon and not is_tag(tag_text):
            raise UsageError(
                f"{text!r}: {tag_text!r} is not a tag", hint="a tag has up to 128 characters of A-Z a-z 0-9 . _ -"
            )
        if not _REGISTRY.fullmatch(registry):
            raise UsageError(f"{text!r}: {registry!r} is not a registry, host[:port]")
        if not is_repository(repository):
            raise UsageError(
                f"{text!r}: {repository!r} is not a repository name",
                hint="use lower-case letters and digits, separated by single . _ or -, and / between components",
            )
        return cls(registry, repository, tag_text or None, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def locator(self) -> str:
        """The part of the reference that a registry resolves: the digest, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"


def is_tag(text: str) -> bool:
    """Tell whether `text` is a tag (distribution-spec, "Pulling manifests")."""
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Tell whether `text` is a repository name without a registry (distribution-spec, "Pulling manifests")."""
    return len(text) <= _MAX_REPOSITORY and _REPOSITORY.fullmatch(text) is not None


def is_registry(component: str) -> bool:
    """Tell whether the first component of a name is a registry: it has a dot or a port, or is `localhost`."""
    return "." in component or ":" in component or component == "localhost"


def is_loopback(registry: str) -> bool:
    """Tell whether `registry` is a loopback address, which implies plain HTTP (as in Docker)."""
    host = (registry.rsplit(":", 1)[0] if not registry.endswith("]") else registry).lower()
    return host in {"localhost", "[::1]"} or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and is_registry(first):
        registry, repository = first, rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and repository and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository
