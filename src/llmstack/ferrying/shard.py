"""Divide a wish list between machines that do not communicate."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from llmstack.errors import UsageError
from llmstack.lists.wish_list import RepoRequest, WishList

_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `number` of `count` of a wish list."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `I/N`; raises UsageError."""
        match = _SHARD.fullmatch(text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(
                f"--shard {text}: must be I/N, with I from 1 to N", hint="for three machines, use 1/3, 2/3 and 3/3"
            )
        return shard

    def select(self, wish_list: WishList) -> WishList:
        """Return this shard's entries; an entry's shard does not depend on other entries.

        The first shard has the invalid lines.
        """
        entries = tuple(entry for entry in wish_list.entries if self._contains(entry))
        return WishList(entries, wish_list.problems if self.number == 1 else ())

    def _contains(self, request: RepoRequest) -> bool:
        name = f"{request.repo_type}s/{request.repo_id}@{request.revision}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % self.count == self.number - 1
