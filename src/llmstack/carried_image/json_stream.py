"""Reading a JSON object whose one long list is too much to be held: its items are handed on one by one.

What a document costs in memory is what its reader keeps, not what a hostile one would unfold to.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.oci.spec import JSON_DECODER, check_json

# No single value is longer, in characters; a list that is handed on item by item is no single value.
MAX_VALUE = 1024 * 1024
_PIECE = 64 * 1024
_SPACES = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACES | frozenset(",:]}")


def parse_items(
    chunks: Iterable[bytes | memoryview], name: str, members: dict[str, Any], what: str
) -> Iterator[object]:
    """Yield the items of an object's list `name`, and put the object's other members into `members` as they come.

    Raises IntegrityError, which names `what`, for anything but such an object.
    """
    text = _Text(chunks)
    try:
        text.expect("{")
        while True:
            key = text.value()
            text.expect(":")
            if not isinstance(key, str) or key in members:
                raise ValueError(f"the member {str(key)[:40]!r} is there twice, or is no name")
            members[key] = None
            if key == name:
                yield from _list_items(text)
            else:
                members[key] = text.value()
            if text.expect(",}") == "}":
                text.end()
                return
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not JSON, or not as it should be: {error}") from error


def _list_items(text: _Text) -> Iterator[object]:
    text.expect("[")
    if text.peek() == "]":
        text.expect("]")
        return
    while True:
        yield text.value()
        if text.expect(",]") == "]":
            return


class _Text:
    """A document's text, of which only what is being looked at is there; every method raises ValueError."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._pieces = _cut(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """Return the next character that is no space; nothing at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACES:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, allowed: str) -> str:
        """Take the next character, which must be one of these."""
        char = self.peek()
        if not char or char not in allowed:
            raise ValueError(f"{char!r} instead of one of {allowed!r}")
        self._at += 1
        return char

    def value(self) -> object:
        """Take the next value whole."""
        self.peek()
        tried, more = 0, True
        while True:
            left = len(self._text) - self._at
            if left > MAX_VALUE:
                raise ValueError(f"a value of more than {MAX_VALUE} characters")
            # Twice as much each time: a long value is not begun again for every piece of it.
            if left >= 2 * tried or not more:
                tried = left
                try:
                    value, end = JSON_DECODER.raw_decode(self._text, self._at)
                except json.JSONDecodeError:
                    if not more:
                        raise
                else:
                    # What begins like a number may go on beyond what is there of the text.
                    if self._text[end : end + 1] in _AFTER_VALUE or not more:
                        check_json(value, self._text[self._at : end])
                        self._at = end
                        return value
            more = self._more()

    def end(self) -> None:
        """Make sure that nothing follows."""
        if rest := self.peek():
            raise ValueError(f"{rest!r} after its end")

    def _more(self) -> bool:
        """Read on, and let go of what was taken; false at the end."""
        for piece in self._pieces:
            self._text = self._text[self._at :] + self._decoder.decode(piece)
            self._at = 0
            return True
        self._decoder.decode(b"", final=True)
        return False


def _cut(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), _PIECE):
            yield bytes(chunk[start : start + _PIECE])
