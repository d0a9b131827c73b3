"""Parsers for response headers. Servers are not trusted: each parser takes linear time and bounded numbers."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Mapping

_RATE_LIMIT = re.compile(r";\s*r=([0-9]{1,9})\s*;\s*t=([0-9]{1,9})")
# One parameter of a link: name, quoted value, value (RFC 8288, section 3).
_LINK_PARAMETER = re.compile(r'\s*+;\s*+([^\s;,="<>]*+)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^\s;,"<>]*+)))?')


def next_link(headers: Mapping[str, str]) -> str | None:
    """Return the URL of the link with `rel="next"` (RFC 8288), or None."""
    header = headers.get("Link", "")
    position = header.find("<")
    while position >= 0 and (end := header.find(">", position)) >= 0:
        url, position = header[position + 1 : end], end + 1
        while parameter := _LINK_PARAMETER.match(header, position):
            position = parameter.end()
            relations = parameter[2] or parameter[3] or ""
            if parameter[1].lower() == "rel" and "next" in relations.lower().split():
                return url
        position = header.find("<", position)
    return None


def requested_delay(headers: Mapping[str, str]) -> float | None:
    """Return the number of seconds that a server asks the client to wait, None if it does not ask.

    Servers send Retry-After. The Hugging Face Hub sends RateLimit (draft-ietf-httpapi-ratelimit-headers): a quota with
    `r` requests left is full again after `t` seconds.
    """
    seconds = parse_retry_after(headers.get("Retry-After"))
    if seconds is not None:
        return seconds
    exhausted = [int(t) for r, t in _RATE_LIMIT.findall(headers.get("RateLimit", "")) if int(r) == 0]
    return float(max(exhausted)) if exhausted else None


def parse_retry_after(value: str | None) -> float | None:
    """Return the seconds from now that a Retry-After header names (RFC 9110, section 10.2.3), None if it is invalid."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
