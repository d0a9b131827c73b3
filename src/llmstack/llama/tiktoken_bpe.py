"""Llama 3's tokenizer.model: a tiktoken vocabulary of base64 byte strings and ranks."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from llmstack.errors import IntegrityError
from llmstack.llama.params import Version
from llmstack.llama.vocabulary import SpecialTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The pattern by which Llama 3 splits a text before it merges bytes.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL_COUNT = 256
_BOS, _EOS, _EOM, _EOT = "<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"
_LINE = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")


def is_tiktoken(data: bytes) -> bool:
    """Tell whether the first line is one of a tiktoken vocabulary."""
    return bool(_LINE.match(data))


def special_tokens(version: Version) -> list[str]:
    """Return the 256 special tokens, ordered by id. Their ids follow those of the vocabulary."""
    named = {0: _BOS, 1: _EOS, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: _EOT}
    if version is not Version.V3:
        named |= {4: "<|finetune_right_pad_id|>", 8: _EOM, 10: "<|python_tag|>"}
    number = count()
    return [
        named[position] if position in named else f"<|reserved_special_token_{next(number)}|>"
        for position in range(_SPECIAL_COUNT)
    ]


@dataclass(frozen=True, slots=True)
class TiktokenModel:
    """A tiktoken vocabulary. The rank of a byte string is its id."""

    ranks: dict[bytes, int]
    tiktoken: bool = True

    @classmethod
    def parse(cls, data: bytes) -> TiktokenModel:
        """Parse a vocabulary; raises IntegrityError if a line is invalid or a rank is missing."""
        ranks = {}
        for number, line in enumerate(data.splitlines(), 1):
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except ValueError as error:
                raise IntegrityError(f"line {number}: not a token and a rank") from error
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise IntegrityError("ranks are missing or repeated: the file is damaged")
        return cls(ranks)

    @property
    def size(self) -> int:
        """The number of ids, including special tokens."""
        return len(self.ranks) + _SPECIAL_COUNT

    def specials(self, version: Version, *, instruct: bool) -> SpecialTokens:
        """Return the special tokens of a version. An instruction-tuned model ends its turns with `<|eot_id|>`."""
        ids = {token: len(self.ranks) + position for position, token in enumerate(special_tokens(version))}
        stops = (_EOS, _EOM, _EOT) if instruct else (_EOS,)
        return SpecialTokens(
            bos=_BOS,
            bos_id=ids[_BOS],
            eos=_EOT if instruct else _EOS,
            stop_ids=tuple(ids[token] for token in stops if token in ids),
        )

    def build(self, version: Version) -> Tokenizer:
        """Build a tokenizer that gives the same ids as tiktoken."""
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
        from tokenizers.models import BPE

        names = _byte_names()
        vocab = {"".join(names[byte] for byte in token): rank for token, rank in self.ranks.items()}
        merges = [
            ("".join(names[byte] for byte in left), "".join(names[byte] for byte in right))
            for left, right in self._merges()
        ]
        # tiktoken does not merge within a piece that is itself a token.
        tokenizer = Tokenizer(BPE(vocab, merges, ignore_merges=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        specials = special_tokens(version)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{_BOS} $A",
                    pair=f"{_BOS}:0 $A:0 {_BOS}:1 $B:1",
                    special_tokens=[(_BOS, len(self.ranks))],
                ),
            ]
        )
        return tokenizer

    def _merges(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each pair of tokens that forms a token, by the rank of the formed token."""
        ranks = self.ranks
        for token in sorted(ranks, key=ranks.__getitem__):
            splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
            known = [(left, right) for left, right in splits if left in ranks and right in ranks]
            yield from sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))


def _byte_names() -> dict[int, str]:
    """Return the character that byte-level tokenizers use for each byte: itself if printable, else one from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
