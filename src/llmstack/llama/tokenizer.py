"""Read Meta's tokenizer.model, and write tokenizer.json and tokenizer_config.json for transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from llmstack.errors import IntegrityError, UsageError
from llmstack.llama.checkpoint_files import check_content
from llmstack.llama.params import Version
from llmstack.llama.sentencepiece_bpe import SentencePieceModel
from llmstack.llama.tiktoken_bpe import TiktokenModel, is_tiktoken
from llmstack.llama.vocabulary import SpecialTokens, Vocabulary


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a tokenizer.model of either kind; raises IntegrityError if it is invalid."""
    data = path.read_bytes()
    check_content(path, data)
    try:
        return TiktokenModel.parse(data) if is_tiktoken(data) else SentencePieceModel.parse(data)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", hint="copy tokenizer.model again") from error


def check_version(vocabulary: Vocabulary, version: Version) -> None:
    """Raise UsageError if the version uses the other kind of vocabulary."""
    if vocabulary.tiktoken != version.tiktoken:
        kind = "a tiktoken vocabulary, of Llama 3 or later" if vocabulary.tiktoken else "a SentencePiece model"
        raise UsageError(f"--llama_version {version} does not match tokenizer.model, which is {kind}")


def read_template(path: Path) -> str:
    """Read a chat template; raises UsageError if the file is unreadable or not a Jinja template."""
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        text = path.read_text(encoding="utf-8")
        # The environment that transformers renders it with.
        ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(text)
    except TemplateSyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.message}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the chat template cannot be read: {error}") from error
    return text


def save_tokenizer(
    vocabulary: Vocabulary,
    version: Version,
    original: Path,
    directory: Path,
    *,
    specials: SpecialTokens,
    context_length: int,
    template: str | None,
) -> None:
    """Write the tokenizer's files into a directory."""
    tokenizer = vocabulary.build(version)
    tokenizer.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        # For this class, transformers uses tokenizer.json as it is. LlamaTokenizer of version 5 would rebuild it and
        # drop a leading space.
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
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    if not vocabulary.tiktoken:
        # llama.cpp's converter reads the SentencePiece model.
        shutil.copyfile(original, directory / original.name)
