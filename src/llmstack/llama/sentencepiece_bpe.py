"""Llama 1 and 2's tokenizer.model: a SentencePiece BPE model.

This module parses the few fields it needs, because the protobuf module of the sentencepiece package depends on the
release of protobuf. Format: sentencepiece_model.proto in google/sentencepiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmstack.errors import IntegrityError
from llmstack.llama.params import Version
from llmstack.llama.vocabulary import SpecialTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_BPE = 2
_SPACE = "▁"
_BOS, _EOS = "<s>", "</s>"


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary. Its position is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A SentencePiece BPE model without text normalization."""

    pieces: tuple[Piece, ...]
    dummy_prefix: bool
    tiktoken: bool = False

    @classmethod
    def parse(cls, data: bytes) -> SentencePieceModel:
        """Parse a model; raises IntegrityError if it is invalid or not of Llama's kind."""
        pieces: list[Piece] = []
        trainer: dict[int, bytes | int] = {}
        normalizer: dict[int, bytes | int] = {}
        try:
            for number, value in _fields(data):
                if number == 1 and isinstance(value, bytes):
                    pieces.append(_piece(value))
                elif number == 2 and isinstance(value, bytes):
                    trainer = dict(_fields(value))
                elif number == 3 and isinstance(value, bytes):
                    normalizer = dict(_fields(value))
        except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
            raise IntegrityError("not a tiktoken vocabulary or a SentencePiece model") from error
        if not pieces or {_BOS, _EOS} - {piece.text for piece in pieces}:
            raise IntegrityError(f"no pieces {_BOS} and {_EOS}: not a Llama tokenizer")
        # model_type (default unigram); precompiled_charsmap; remove_extra_whitespaces (default true)
        if trainer.get(3, 1) != _BPE or normalizer.get(2) or normalizer.get(4, 1):
            raise IntegrityError("not a BPE model without normalization, as Llama's is")
        unused = [
            piece.text for piece in pieces if piece.kind not in {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE}
        ]
        if unused:
            raise IntegrityError(f"piece {unused[0]!r} is marked as unused, which tokenizer.json cannot express")
        return cls(tuple(pieces), dummy_prefix=bool(normalizer.get(3, 1)))

    @property
    def size(self) -> int:
        """The number of ids, including special tokens."""
        return len(self.pieces)

    def specials(self, version: Version, *, instruct: bool) -> SpecialTokens:  # noqa: ARG002 - the protocol's names
        """Return the special tokens. They are the same for all versions."""
        ids = {piece.text: number for number, piece in enumerate(self.pieces)}
        unknown = [piece.text for piece in self.pieces if piece.kind == _UNKNOWN]
        return SpecialTokens(_BOS, ids[_BOS], _EOS, (ids[_EOS],), unknown[0] if unknown else None)

    def build(self, version: Version) -> Tokenizer:
        """Build a tokenizer that gives the same ids as SentencePiece."""
        from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
        from tokenizers.models import BPE

        specials = self.specials(version, instruct=False)
        vocab = {piece.text: number for number, piece in enumerate(self.pieces)}
        byte_fallback = any(piece.kind == _BYTE for piece in self.pieces)
        model = BPE(vocab, list(self._merges()), unk_token=specials.unk, fuse_unk=True, byte_fallback=byte_fallback)
        tokenizer = Tokenizer(model)
        prefix = [normalizers.Prepend(_SPACE)] if self.dummy_prefix else []
        tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
        strip = [decoders.Strip(" ", 1, 0)] if self.dummy_prefix else []
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        control = [piece.text for piece in self.pieces if piece.kind in {_UNKNOWN, _CONTROL}]
        tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in control])
        added = [piece.text for piece in self.pieces if piece.kind == _USER_DEFINED]
        tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{_BOS} $A",
            pair=f"{_BOS}:0 $A:0 {_BOS}:1 $B:1",
            special_tokens=[(_BOS, specials.bos_id)],
        )
        return tokenizer

    def _merges(self) -> Iterator[tuple[str, str]]:
        """Yield each pair of pieces that forms a piece, by descending score."""
        ids = {piece.text: number for number, piece in enumerate(self.pieces) if piece.kind == _NORMAL}
        for text in sorted(ids, key=lambda text: -self.pieces[ids[text]].score):
            splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
            known = [(left, right) for left, right in splits if left in ids and right in ids]
            yield from sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score, kind = fields[1], fields.get(2, b"\0\0\0\0"), fields.get(3, _NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
        raise TypeError("piece: wrong field types")
    return Piece(text.decode(), struct.unpack("<f", score)[0], kind)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the fields of a protobuf message: number, and value as an integer or bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(data, position)
        elif wire_type in {1, 5}:
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if position + size > len(data):
            raise ValueError("truncated")
        yield number, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
