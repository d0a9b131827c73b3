"""The address of the hub, looked at before huggingface_hub is: that cannot even be imported with a wrong one."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from llmstack.errors import UsageError

VARIABLE = "HF_ENDPOINT"


def check_endpoint(environ: Mapping[str, str]) -> None:
    """Raise UsageError if HF_ENDPOINT is set to something that is no http(s) address."""
    value = environ.get(VARIABLE)
    if not value:
        return
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        # urlsplit passes over control characters.
        usable = usable and value.isprintable()
    except ValueError:
        usable = False
    if not usable:
        # The value is left out: it may hold a password.
        raise UsageError(f"{VARIABLE} is not the address of a hub", hint="write it as https://huggingface.co")
