"""Parse a JSON object with one long list: yield the list's items one by one, so that memory use stays small."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from llmstack.errors import IntegrityError
from llmstack.oci.spec import JSON_DECODER, check_json

# The longest single value, in characters. The list itself is not a single value.
MAX_VALUE = 1024 * 1024
# All members together, without the list.
MAX_MEMBERS = 2 * MAX_VALUE
_PIECE = 64 * 1024
_SPACES = frozenset(" \t\n\r")
_AFTER_VALUE = _SPACES | frozenset(",:]}")


def parse_items(
    chunks: Iterable[bytes | memoryview], name: str, members: dict[str, Any], what: str
) -> Iterator[object]:
    """Yield the items of an object's list `name`; put the object's other members into `members`.

    Raises IntegrityError, which names `what`, if the data is not such an object.
    """
    text = _Text(chunks)
    characters = 0
    try:
        text.expect("{")
        while True:
            start = text.consumed
            key = text.value()
            text.expect(":")
            if not isinstance(key, str) or key in members:
                raise ValueError(f"member {str(key)[:40]!r} is repeated or not a string")
            members[key] = None
            if key == name:
                yield from _list_items(text)
            else:
                members[key] = text.value()
                characters += text.consumed - start
                if characters > MAX_MEMBERS:
                    raise ValueError(f"the members without {name!r} have more than {MAX_MEMBERS} characters")
            if text.expect(",}") == "}":
                text.end()
                return
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what}: invalid JSON: {error}") from error


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
    """The text of a document, decoded piece by piece; all methods raise ValueError."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._pieces = _cut(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        # The number of characters of all values that were consumed.
        self.consumed = 0

    def peek(self) -> str:
        """Return the next character that is not white space; an empty string at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACES:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def expect(self, allowed: str) -> str:
        """Consume the next character, which must be one of `allowed`."""
        char = self.peek()
        if not char or char not in allowed:
            raise ValueError(f"found {char!r}, expected one of {allowed!r}")
        self._at += 1
        return char

    def value(self) -> object:
        """Consume the next value."""
        self.peek()
        attempted, more = 0, True
        while True:
            left = len(self._text) - self._at
            if left > MAX_VALUE:
                raise ValueError(f"a value has more than {MAX_VALUE} characters")
            # Double the length before each new attempt, so that a long value costs linear time.
            if left >= 2 * attempted or not more:
                attempted = left
                try:
                    value, end = JSON_DECODER.raw_decode(self._text, self._at)
                except json.JSONDecodeError:
                    if not more:
                        raise
                else:
                    # A number may continue in the next piece.
                    if self._text[end : end + 1] in _AFTER_VALUE or not more:
                        check_json(value, self._text[self._at : end])
                        self.consumed += end - self._at
                        self._at = end
                        return value
            more = self._more()

    def end(self) -> None:
        """Raise ValueError if anything follows."""
        if rest := self.peek():
            raise ValueError(f"found {rest!r} after the end")

    def _more(self) -> bool:
        """Read another piece and drop the consumed text; return false at the end."""
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
