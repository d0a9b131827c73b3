"""Text for terminals and logs: sizes, durations, truncation, and escaping of control characters."""

from __future__ import annotations

import traceback
import unicodedata
from typing import TextIO

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def printable(text: str) -> str:
    """Return `text` with unprintable characters written as escapes such as `\\x1b`.

    Repo ids, file names and server messages are untrusted: a terminal would execute their control sequences.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def human_size(size: float) -> str:
    """Return a size in bytes with a decimal unit: `512 B`, `2.0 GB`, `140 MB`."""
    scale, unit = _scale(size)
    return f"{_number(size, scale)} {unit}"


def human_progress(done: int, total: int, between: str = " of ") -> str:
    """Return two sizes in the unit of the larger one: `1.2 of 2.0 GB`; only `done` if the total is unknown."""
    if total <= 0:
        return human_size(done)
    scale, unit = _scale(max(done, total))
    return f"{_number(done, scale)}{between}{_number(total, scale)} {unit}"


def human_time(seconds: float) -> str:
    """Return a duration in its two largest units: `6 s`, `1 min 5 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, round(seconds))
    for unit, name, below, name_below in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {name_below}" if rest else "")
    return f"{whole} s"


def clock_time(seconds: float) -> str:
    """Return a duration in at most seven characters: `0:06`, `1:02:05`, `12h05m`, `3d04h`."""
    whole = max(0, round(seconds))
    if whole >= _DAY:
        return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h" if whole < 1000 * _DAY else "-"
    hours, minutes, rest = whole // _HOUR, whole % _HOUR // _MINUTE, whole % _MINUTE
    if hours >= 10:
        return f"{hours}h{minutes:02}m"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def width_of(text: str) -> int:
    """Return the number of terminal columns of `text`."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns: padded with spaces, or shortened in the second half.

    The start stays longer than the end: it distinguishes `model-00001-of-00004.safetensors` from its siblings.
    """
    if width_of(text) > width:
        end = max(0, width - 1) // 3
        text = _take(text, max(0, width - 1 - end)) + "…"[:width] + _take(text[::-1], end)[::-1]
    return text + " " * (width - width_of(text))


def write_line(stream: TextIO, line: str) -> None:
    """Write one line; ignore a closed stream, so that a transfer continues."""
    try:
        stream.write(printable(line) + "\n")
        stream.flush()
    except (OSError, ValueError):
        return


def write_traceback(stream: TextIO) -> None:
    """Write the traceback of the current exception; ignore a closed stream."""
    for line in traceback.format_exc().splitlines():
        write_line(stream, line)


def _scale(size: float) -> tuple[int, str]:
    scale, position = 1, 0
    # 999.5 and more would round to four digits.
    while abs(size) >= 999.5 * scale and position < len(_UNITS) - 1:
        scale, position = scale * 1000, position + 1
    return scale, _UNITS[position]


def _number(size: float, scale: int) -> str:
    value = size / scale
    return f"{value:.0f}" if scale == 1 or abs(value) >= 99.95 else f"{value:.1f}"


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def _take(text: str, width: int) -> str:
    taken = 0
    for position, char in enumerate(text):
        taken += _columns(char)
        if taken > width:
            return text[:position]
    return text
