"""Fixtures of the conversion tests: checkpoints of Meta's reference model, and both kinds of tokenizer."""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

NEEDED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "sentencepiece",
    "tiktoken",
    "fairscale",
    "llama_models",
)

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if missing:
    raise pytest.UsageError(
        f"tests/llama needs {', '.join(missing)}: install tests/llama/requirements.txt as its comment says, "
        "or skip these tests with --ignore=tests/llama"
    )

# Set before torch is imported, here and in child processes. The models are too small for more threads, which would
# spin while they wait for each other, on cores that other tests need.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from llama_cases import CASES, TEXTS, Checkpoint  # noqa: E402 - needs the packages checked above


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory):
    """Train a SentencePiece model with Llama's settings."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(text for text in TEXTS for _ in range(4)), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def tiktoken_model(tmp_path_factory):
    """Write a tiny tiktoken vocabulary: all bytes, and some merges."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b"in", b"er", b"an"]
    path = tmp_path_factory.mktemp("tiktoken") / "tokenizer.model"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


@pytest.fixture(scope="session")
def meta_tokenizer_model():
    """Return Llama 3's real vocabulary, from the llama-models package."""
    spec = importlib.util.find_spec("llama_models")
    return Path(spec.origin).parent / "llama3/tokenizer.model"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, sentencepiece_model, tiktoken_model):
    """Create all checkpoints with Meta's model; return them by name."""
    folder = tmp_path_factory.mktemp("meta")
    made = {}
    for case in CASES.values():
        tokenizer, size = (sentencepiece_model, 700) if case.version in {"1", "2"} else (tiktoken_model, 262 + 256)
        made[case.name] = (
            Checkpoint(case, folder / case.name, tokenizer),
            json.dumps(asdict(case) | {"vocab_size": size}),
        )
    for shards in (1, 2):
        texts = [text for checkpoint, text in made.values() if checkpoint.case.shards == shards]
        command = [sys.executable, str(Path(__file__).with_name("meta_reference.py"))]
        ranks = [
            subprocess.Popen([*command, str(rank), str(shards), str(folder), *texts], stderr=subprocess.PIPE)
            for rank in range(shards)
        ]
        for process in ranks:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()
    for checkpoint, _ in made.values():
        (checkpoint.folder / "tokenizer.model").write_bytes(checkpoint.tokenizer.read_bytes())
    return {name: checkpoint for name, (checkpoint, _) in made.items()}


@pytest.fixture
def copy(checkpoints, tmp_path):
    """Return a function that copies a checkpoint, for tests that change it."""
    return lambda name: shutil.copytree(checkpoints[name].folder, tmp_path / "LLaMA" / name)
