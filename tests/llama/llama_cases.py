"""Texts, checkpoints and helpers of the conversion tests."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import transformers

from llmstack.llama.conversion_plan import ConversionRequest, plan_conversion
from llmstack.llama.convert import convert
from llmstack.reporting import make_reporter

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools/convert_llama_weights_to_hf.py"
EXAMPLE = ROOT / "example/start.py"

# Accents, right-to-left scripts, scripts without spaces, emoji with joiners, digits, white space, and code.
TEXTS = (
    "",
    " ",
    "Hello world",
    " Hello  world ",
    "  two spaces before, three behind   ",
    "I'll say it's 1234567 dollars and 3.14159, don't you?",
    "Die Straße über die Brücke führt nach Köln.",
    "L'été dernier, à Nîmes : « ça va » ?",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",  # noqa: RUF001 - Greek on purpose
    "שלום עולם, مرحبا بالعالم",
    "你好,世界。今天天气很好。",
    "こんにちは世界、カタカナとひらがな",
    "안녕하세요 세계",
    "สวัสดีชาวโลก नमस्ते दुनिया",
    "👩‍👩‍👧‍👦 🏳️‍🌈 naïve café",
    "def f(x):\n\treturn x ** 2  # comment\n\n\n    indented\r\nwindows\r\n",
    "\n\nline\n \n  \n",
    "a\u0301e\u0301 combining, \u00a0no-break, \u200bzero-width, \ufeffmark",
    "UPPER lower CamelCase snake_case kebab-case",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabababababababababababababa",
    "x" * 300 + " " * 40 + "7" * 30,
)


@dataclass(frozen=True)
class Case:
    """One checkpoint to create; the fields are the input of meta_reference.py."""

    name: str
    version: str
    params: dict
    shards: int = 1
    tokens: int = 48
    vocab_size: int = 0
    embeddings_by_columns: bool = False
    rope_freqs: bool = False
    tied: bool = False
    rope_factor: int = 8


SMALL = {"dim": 64, "n_layers": 2, "n_heads": 4, "multiple_of": 32, "norm_eps": 1e-6, "vocab_size": -1}
GROUPED = SMALL | {"norm_eps": 1e-5, "n_kv_heads": 2}
LATER = GROUPED | {"rope_theta": 500000.0, "ffn_dim_multiplier": 1.3}
SCALED = LATER | {"dim": 128, "n_heads": 2, "use_scaled_rope": True}

CASES = {
    case.name: case
    for case in (
        Case("v1", "1", SMALL, embeddings_by_columns=True, rope_freqs=True),
        Case("v1-two-shards", "1", SMALL, shards=2, embeddings_by_columns=True, rope_freqs=True),
        Case("v2-grouped", "2", GROUPED),
        Case("v3", "3", LATER),
        Case("v3-two-shards", "3", LATER, shards=2),
        Case("v3.1-scaled", "3.1", SCALED, tokens=1500),
        Case("v3.2-tied", "3.2", SCALED, tokens=1500, tied=True, rope_factor=32),
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """A directory with a checkpoint of Meta's model, its tokenizer, and its logits for some tokens."""

    case: Case
    folder: Path
    tokenizer: Path = field(repr=False)


def load_model(folder, dtype):
    """Load a converted model. transformers 4 and 5 name the data type differently."""
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **{name: dtype})


class RecordingReporter:
    """A reporter that records messages, tasks and bytes."""

    def __init__(self):
        self.notes, self.warnings, self.tasks = [], [], []
        self.advanced = self.total = 0

    def begin(self, title, total):
        self.notes.append(title)
        self.total += total

    def task(self, name, size):  # noqa: ARG002 - the protocol's names
        self.tasks.append(name)
        return self

    def advance(self, size):
        self.advanced += size

    def done(self):
        pass

    def end(self):
        pass

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)


def run(input_dir, output_dir, reporter=None, **options):
    reporter = reporter or make_reporter("none", quiet=True)
    convert(plan_conversion(ConversionRequest(input_dir, output_dir, **options), reporter), reporter)


def read_config(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def change_params(folder, **entries):
    path = folder / "params.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
