"""How a client reached the hub."""

from __future__ import annotations

from starlette.requests import Request


def scheme_of(request: Request) -> str:
    """Return http or https, as the client knows it: a proxy before the hub that speaks TLS says so."""
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return forwarded if forwarded in {"http", "https"} else str(request.scope["scheme"])
