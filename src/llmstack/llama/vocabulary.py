"""The interface of both kinds of tokenizer.model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from llmstack.llama.params import Version

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens with a function: the start and the end of a text, and the ids that stop generation."""

    bos: str
    bos_id: int
    eos: str
    stop_ids: tuple[int, ...]
    unk: str | None = None


class Vocabulary(Protocol):
    """A tokenizer.model."""

    @property
    def tiktoken(self) -> bool:
        """Whether it is a tiktoken vocabulary, of version 3 or later; else it is a SentencePiece model."""

    @property
    def size(self) -> int:
        """The number of ids, including special tokens."""

    def specials(self, version: Version, *, instruct: bool) -> SpecialTokens:
        """Return the special tokens of a version."""

    def build(self, version: Version) -> Tokenizer:
        """Build a tokenizer that gives the same ids as the original."""
