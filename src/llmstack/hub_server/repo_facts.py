"""What the Hub derives from the files of a repo: tags, task and library from its card and config. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.tensor_headers import Gguf

Json = dict[str, Any]

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"
ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
# The files of a model that declare something.
CONFIGS = (CONFIG, TOKENIZER, ADAPTER, PIPELINE)

# More tags than these are of no use in a list.
_MAX_TAGS = 500
_MAX_TAG = 200
# JavaScript has no larger integers; NaN and infinity are not smaller.
_MAX_NUMBER = 2**53
# The task that a class of transformers is for, by the end of its name; the Hub derives it in the same way.
_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForObjectDetection": "object-detection",
    "ForSemanticSegmentation": "image-segmentation",
    "ForCTC": "automatic-speech-recognition",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForAudioClassification": "audio-classification",
    "ForZeroShotImageClassification": "zero-shot-image-classification",
    "MTModel": "text2text-generation",
}
# ForConditionalGeneration does not say from what: these classes read text, or speech, others what their config says.
_CONDITIONAL = "ForConditionalGeneration"
_FROM_TEXT = re.compile(
    r"(?:(?:U?M|Long)?T5|SwitchTransformers|M?Bart|PLBart|Pegasus(?:X)?|BigBirdPegasus|LED|Blenderbot(?:Small)?"
    r"|M2M100|FSMT|(?:XLM)?ProphetNet|Mvp|NllbMoe)"
)
_FROM_SPEECH = re.compile(r"Whisper|Speech2Text|Moonshine")
# The task of a pipeline of diffusers by its name, from the special to the general; none for others.
_PIPELINES = {
    "image-to-3d": re.compile(r"ShapEImg2Img"),
    "text-to-3d": re.compile(r"ShapE"),
    "depth-estimation": re.compile(r"MarigoldDepth"),
    "image-to-video": re.compile(r".*ImageToVideo|StableVideoDiffusion"),
    "text-to-video": re.compile(
        r".*Video|Wan|Mochi|LTX|AnimateDiff|TextToVideo|Allegro|Latte|EasyAnimate|SkyReels|CosmosTextToWorld"
    ),
    "text-to-audio": re.compile(r"AudioLDM|MusicLDM|StableAudio"),
    "image-to-image": re.compile(r".*(?:Img2Img|Inpaint|Pix2Pix|Upscale|Edit|Kontext)"),
    "unconditional-image-generation": re.compile(r"DDPM|DDIM|PNDM|ScoreSdeVe|KarrasVe|LDMPipeline"),
    "text-to-image": re.compile(
        r"(?:Latent|Stable|Alt|Versatile|VQ)?(?:Diffusion|Consistency|Cascade)|CogView|UnCLIP|Kolors|Amused|OmniGen"
        r"|ZImage|Bria|Flux|Pix[Aa]rt|Kandinsky|Sana|Hunyuan|AuraFlow|Lumina|QwenImage|Chroma|HiDream|Wuerstchen"
        r"|IFPipeline"
    ),
}
# The library of a model by a file in its root.
_LIBRARIES = {
    ADAPTER: "peft",
    "modules.json": "sentence-transformers",
    PIPELINE: "diffusers",
    CONFIG: "transformers",
}
# The format of weights by the pattern of their path.
_FORMATS = {
    "pytorch": re.compile(r"(?:.*/)?pytorch_model[^/]*\.bin"),
    "tf": re.compile(r"(?:.*/)?tf_model\.h5"),
    "jax": re.compile(r"(?:.*/)?flax_model\.msgpack"),
    "rust": re.compile(r"(?:.*/)?rust_model\.ot"),
    "onnx": re.compile(r".*\.onnx"),
    "openvino": re.compile(r"(?:.*/)?openvino.*\.xml"),
    "safetensors": re.compile(r".*\.safetensors"),
    "gguf": re.compile(r".*\.gguf"),
    "tensorboard": re.compile(r"(?:.*/)?[^/]*tfevents[^/]*"),
}
# The fields of a dataset's card that become tags with their name.
_DATASET_FIELDS = (
    "annotations_creators",
    "language_creators",
    "task_categories",
    "task_ids",
    "multilinguality",
    "size_categories",
    "source_datasets",
    "language",
)
_CONFIG_FIELDS = ("architectures", "model_type", "auto_map", "quantization_config")
# The other files with facts of a model, the name of their part of the config, and their fields there.
_PARTS = {
    TOKENIZER: (
        "tokenizer_config",
        [
            "bos_token",
            "eos_token",
            "pad_token",
            "unk_token",
            "sep_token",
            "cls_token",
            "mask_token",
            "use_default_system_prompt",
        ],
    ),
    ADAPTER: ("peft", ["base_model_name_or_path", "task_type"]),
    PIPELINE: ("diffusers", ["_class_name"]),
}
# Files with the chat template outside of the tokenizer's config.
_TEMPLATES = frozenset({"chat_template.jinja", "chat_template.json"})
_MAX_TEMPLATE = 64 * 1024
_PAPER = re.compile(r"(?:arxiv\.org/(?:abs|pdf|html)|(?:huggingface|hf)\.co/papers)/(\d{4}\.\d{4,5})(?!\d)", re.ASCII)
_MAX_PAPERS = 50


@dataclass(frozen=True, slots=True)
class Facts:
    """What the files of a repo declare; `config` is a part of config.json, as on the Hub."""

    card: Json
    config: Json
    tags: tuple[str, ...]
    pipeline_tag: str | None
    library: str | None


@dataclass(frozen=True, slots=True)
class Weights:
    """What the headers of weight files say: parameters by data type of safetensors, and a GGUF header."""

    safetensors: Mapping[str, int] | None = None
    gguf: Gguf | None = None

    @property
    def total(self) -> int | None:
        """The number of parameters; None if it is unknown."""
        if self.safetensors is not None:
            return sum(self.safetensors.values())
        return self.gguf.total if self.gguf else None


def facts_of(
    repo_type: RepoType,
    card: Json,
    configs: Mapping[str, Json],
    paths: Collection[str],
    declared_license: str | None,
    readme: str = "",
    gguf: Gguf | None = None,
) -> Facts:
    """Return the facts of a repo.

    `configs` are the JSON objects of a model's files by path; `declared_license` is used if the card has none.
    `gguf` is the header of the first GGUF file.
    """
    licenses = _strings(card.get("license")) or ([declared_license] if declared_license else [])
    papers = [f"arxiv:{number}" for number in dict.fromkeys(_PAPER.findall(readme))][:_MAX_PAPERS]
    if repo_type == "dataset":
        tags = [f"{name}:{value}" for name in _DATASET_FIELDS for value in _strings(card.get(name))]
        tags += papers + [f"license:{name}" for name in licenses] + _strings(card.get("tags"))
        return Facts(card, {}, _limited(tags), None, None)
    config = _config(configs)
    formats = [name for name, pattern in _FORMATS.items() if any(map(pattern.fullmatch, paths))]
    library = _string(card.get("library_name")) or _library(config, paths)
    task = _string(card.get("pipeline_tag")) or _task(library, config, "vision_config" in configs.get(CONFIG, {}))
    tags = [*filter(None, [library]), *formats, *filter(None, [_string(config.get("model_type")), task])]
    tags += _strings(card.get("tags"))
    has_template = "chat_template" in config.get("tokenizer_config", {}) or not _TEMPLATES.isdisjoint(paths)
    if has_template or (gguf and gguf.chat_template):
        tags.append("conversational")
    if config.get("auto_map"):
        tags.append("custom_code")
    tags += _strings(card.get("language"))
    tags += [f"dataset:{name}" for name in _strings(card.get("datasets"))]
    tags += papers
    tags += _base_models(card, library, formats, config)
    tags += [f"license:{name}" for name in licenses]
    tags += _quantization(config.get("quantization_config"))
    if pipeline := _class_name(config):
        tags.append(f"diffusers:{pipeline}")
    return Facts(card, config, _limited(tags), task, library)


def declared_values(card: Json, name: str) -> list[str]:
    """Return the values of a field of a card that is a string or a list."""
    return _strings(card.get(name))


def base_models(card: Json) -> list[str]:
    """Return the IDs of the models that a model was made from."""
    return _strings(card.get("base_model"))


def gguf_files(paths: Iterable[str]) -> list[str]:
    """Return the file that says what a repo's GGUF models are, with the other parts of a split model."""
    named = sorted((path.count("/"), path) for path in paths if path.endswith(".gguf") and "mmproj" not in path)
    if not named:
        return []
    first = named[0][1]
    split = re.fullmatch(r"(.*-)\d{5}(-of-\d{5}\.gguf)", first)
    return [path for _, path in named if split and path.startswith(split[1]) and path.endswith(split[2])] or [first]


def safetensors_files(paths: Iterable[str]) -> list[str]:
    """Return the files that hold a repo's model: one, all shards, or the only file in the root; else none."""
    root = sorted(path for path in paths if path.endswith(".safetensors") and "/" not in path)
    if "model.safetensors" in root:
        return ["model.safetensors"]
    shards = [path for path in root if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", path)]
    return shards or (root if len(root) == 1 else [])


def _library(config: Json, paths: Collection[str]) -> str | None:
    found = next((library for name, library in _LIBRARIES.items() if name in paths), None)
    # Other libraries have a config.json, too.
    return None if found == "transformers" and config.keys().isdisjoint(_CONFIG_FIELDS) else found


def _config(configs: Mapping[str, Json]) -> Json:
    """Return what is shown of a model's configs."""
    declared = configs.get(CONFIG, {})
    value = {name: item for name in _CONFIG_FIELDS if (item := _flat(declared.get(name))) is not None}
    for path, (part, fields) in _PARTS.items():
        known = configs.get(path, {})
        found = {name: item for name in fields if (item := _flat(known.get(name))) not in (None, [])}
        if path == TOKENIZER and (template := _template(known.get("chat_template"))):
            found["chat_template"] = template
        if found:
            value[part] = found
    return value


def _template(value: object) -> object:
    """Return a chat template, or the list of those with names; None if it is invalid or too long."""
    if isinstance(value, list):
        named = [item for item in map(_flat, value) if isinstance(item, dict)]
        found = [{name: str(item[name]) for name in ("name", "template") if name in item} for item in named]
        return found if sum(len(text) for item in found for text in item.values()) <= _MAX_TEMPLATE else None
    return value if isinstance(value, str) and len(value) <= _MAX_TEMPLATE else None


def _class_name(config: Json) -> str | None:
    return _string(config.get("diffusers", {}).get("_class_name"))


def _quantization(config: object) -> list[str]:
    """Return the method of quantization and the bits of a number, as the Hub tags them."""
    if not isinstance(config, dict):
        return []
    bits = config.get("bits")
    if type(bits) is not int or not 1 <= bits <= 16:
        bits = next((size for size in (4, 8) if config.get(f"load_in_{size}bit") is True), None)
    method = _string(config.get("quant_method"))
    return [*([f"{bits}-bit"] if bits else []), *([method.lower()] if method else [])]


def _task(library: str | None, config: Json, sees: bool) -> str | None:
    """Return the task of a model; `sees` tells that its config has a part that reads images."""
    if library == "sentence-transformers":
        return "sentence-similarity"
    if pipeline := _class_name(config):
        return next((task for task, pattern in _PIPELINES.items() if pattern.match(pipeline)), None)
    name = next(iter(_strings(config.get("architectures"))), "")
    if name.endswith(_CONDITIONAL):
        if _FROM_TEXT.fullmatch(name.removesuffix(_CONDITIONAL)):
            return "text2text-generation"
        if _FROM_SPEECH.match(name):
            return "automatic-speech-recognition"
        return "image-text-to-text" if sees else None
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)


def _base_models(card: Json, library: str | None, formats: Collection[str], config: Json) -> Iterator[str]:
    names = list(dict.fromkeys(base_models(card)))
    relation = _string(card.get("base_model_relation"))
    if relation is None:
        if library == "peft":
            relation = "adapter"
        elif "gguf" in formats or "quantization_config" in config:
            relation = "quantized"
        else:
            relation = "merge" if len(names) > 1 or "merge" in _strings(card.get("tags")) else "finetune"
    for name in names:
        yield f"base_model:{name}"
        yield f"base_model:{relation}:{name}"


def _flat(value: object) -> object:
    """Return a string, a list of strings, or an object of strings, numbers and flags; None for all others.

    JSON from strangers may be nested deeply, and have numbers that JSON does not allow.
    """
    if isinstance(value, dict):
        plain = ((str(name), item) for name, item in value.items() if isinstance(item, str | bool | int | float))
        return {name: item for name, item in plain if isinstance(item, str) or abs(item) < _MAX_NUMBER}
    return value if isinstance(value, str) else _strings(value) if isinstance(value, list) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _strings(value: object) -> list[str]:
    """Return a value that is a string or a list as strings. YAML reads the language `no` as false."""
    values = value if isinstance(value, list) else [value]
    plain = ("no" if item is False else item for item in values if not isinstance(item, dict | list))
    return [str(item) for item in plain if item is not None and item is not True and item != ""]


def _limited(tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag[:_MAX_TAG] for tag in tags))[:_MAX_TAGS]
