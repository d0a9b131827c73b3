"""What a registry is told about who asks."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password for a registry, or an identity token (OAuth refresh token) in their place."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)
