"""HTTP headers: checks of what is sent, parsers for what servers send.

Servers are not trusted: each parser takes linear time and accepts bounded numbers.
"""

from __future__ import annotations

import base64
import email.utils
import re
import time
from collections.abc import Mapping

# RFC 9110, section 5.5.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*+")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
# An HTTP date has 29 characters.
_MAX_DATE = 64
_RATE_LIMIT = re.compile(r";\s*r=([0-9]{1,9})\s*;\s*t=([0-9]{1,9})")
# One parameter of a link: name, quoted value, value (RFC 8288, section 3).
_LINK_PARAMETER = re.compile(r'\s*+;\s*+([^\s;,="<>]*+)(?:\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)"?|([^\s;,"<>]*+)))?')


def is_header_value(value: str) -> bool:
    """Tell whether a header may have this value: no control characters, nothing outside of Latin-1."""
    return _VALUE.fullmatch(value) is not None


def basic_auth(username: str, password: str) -> str:
    """Return the Authorization value for a user and a password (RFC 7617)."""
    # JSON files can contain lone surrogates; the server refuses such credentials.
    return "Basic " + base64.b64encode(f"{username}:{password}".encode(errors="surrogatepass")).decode()


def content_range(headers: Mapping[str, str]) -> tuple[int, int | None] | None:
    """Return the first byte and the complete size (None: not known) of a Content-Range, None if it is invalid."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    return (int(match[1]), None if match[3] == "*" else int(match[3])) if match else None


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
    if len(text) > _MAX_DATE:
        return None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
