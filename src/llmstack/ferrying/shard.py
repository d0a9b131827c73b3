"""Sharing a long list between machines, none of which knows of the others."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from llmstack.errors import UsageError
from llmstack.lists.wish_list import RepoRequest, WishList

_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`th of `count` parts of a list."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `I/N`; raises UsageError."""
        match = _SHARD.fullmatch(text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(
                f"--shard {text}: this is not I/N", hint="write 1/3, 2/3 and 3/3 for a list in three parts"
            )
        return shard

    def of(self, wish: WishList) -> WishList:
        """Return this part of a list: each entry is in one, and always the same, whatever else the list holds.

        Lines that are wrong are told of by the first.
        """
        entries = tuple(entry for entry in wish.entries if self._holds(entry))
        return WishList(entries, wish.problems if self.number == 1 else ())

    def _holds(self, entry: RepoRequest) -> bool:
        name = f"{entry.repo_type}s/{entry.repo_id}@{entry.revision}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % self.count == self.number - 1
