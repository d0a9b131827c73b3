"""Meta's two kinds of tokenizer.model, as tokenizer.json and tokenizer_config.json of transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmstack.errors import IntegrityError, UsageError
from llmstack.llama.params import Version

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokens with a meaning: the text's beginning, its end, and the ids that stop a generation."""

    bos: str
    bos_id: int
    eos: str
    stop_ids: tuple[int, ...]
    unk: str | None = None


class Vocabulary(Protocol):
    """A tokenizer.model, read."""

    @property
    def tiktoken(self) -> bool:
        """Whether it is a tiktoken vocabulary, of version 3 or later; else it is a SentencePiece model."""

    @property
    def size(self) -> int:
        """The number of ids, special ones included."""

    def specials(self, version: Version, *, instruct: bool) -> SpecialTokens:
        """Return the special tokens of a version; an instruction-tuned model ends its turns with another one."""

    def build(self, version: Version) -> Tokenizer:
        """Make a tokenizer that gives the ids that the original gives."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a tokenizer.model of either kind; raises IntegrityError if it is none."""
    from llmstack.llama.sentencepiece_bpe import SentencePieceModel
    from llmstack.llama.tiktoken_bpe import TiktokenModel, looks_like_tiktoken

    data = path.read_bytes()
    try:
        return TiktokenModel.parse(data) if looks_like_tiktoken(data) else SentencePieceModel.parse(data)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", hint="copy tokenizer.model again") from error


def check_version(vocabulary: Vocabulary, version: Version) -> None:
    """Raise UsageError if the vocabulary is of the other kind than the version's."""
    if vocabulary.tiktoken != version.tiktoken:
        kind = "a tiktoken vocabulary, of Llama 3 and later" if vocabulary.tiktoken else "a SentencePiece model"
        raise UsageError(f"--llama_version {version} does not fit tokenizer.model, which is {kind}")


def read_template(path: Path) -> str:
    """Read a chat template; raises UsageError if the file cannot be read or is no Jinja template."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        text = path.read_text(encoding="utf-8")
        # The environment in which transformers renders it.
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except TemplateSyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.message}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a chat template: {error}") from error
    return text


def save_tokenizer(
    vocabulary: Vocabulary,
    version: Version,
    source: Path,
    folder: Path,
    *,
    specials: SpecialTokens,
    context_length: int,
    template: str | None,
) -> None:
    """Write the tokenizer's files into a folder."""
    tokenizer = vocabulary.build(version)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        # Of this class transformers takes tokenizer.json as it is. LlamaTokenizer of version 5 would rebuild it and
        # drop a space at the beginning of a text.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": specials.bos,
        "eos_token": specials.eos,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context_length,
    }
    if specials.unk is not None:
        config["unk_token"] = specials.unk
    if template is not None:
        config["chat_template"] = template
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if not vocabulary.tiktoken:
        # llama.cpp's converter reads the SentencePiece model itself.
        shutil.copyfile(source, folder / source.name)
