"""What is derived from the files of a repo: tags, tasks, relations, and the files that say it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.hub_server.repo_facts import CONFIGS, facts_of, gguf_files, safetensors_files
from llmstack.hub_server.tensor_headers import Gguf

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["tags", "language", "license", "datasets", "base_model", "library_name", "pipeline_tag", "task_ids"]


@given(
    st.sampled_from(["model", "dataset"]),
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.dictionaries(
        st.sampled_from(
            ["architectures", "model_type", "quantization_config", "auto_map", "chat_template", "_class_name"]
        ),
        JSON,
    ),
)
def test_any_card_gives_tags_that_are_strings(repo_type: Any, card: dict[str, Any], config: dict[str, Any]):
    facts = facts_of(repo_type, card, dict.fromkeys(CONFIGS, config), ["config.json", "a.gguf"], None)
    assert all(isinstance(tag, str) and tag for tag in facts.tags)
    json.dumps(facts.config, allow_nan=False)


@pytest.mark.parametrize(
    ("configs", "paths", "tags"),
    [
        ({}, ["rust_model.ot", "openvino/openvino_model.xml"], ["rust", "openvino"]),
        ({}, ["runs/a/events.out.tfevents.1.host", "conf.xml"], ["tensorboard"]),
        ({"config.json": {"auto_map": {"AutoModel": "m.M"}}}, [], ["custom_code"]),
        ({"config.json": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, [], ["4-bit", "gptq"]),
        (
            {"config.json": {"quantization_config": {"quant_method": "BITSANDBYTES", "load_in_8bit": True}}},
            [],
            ["8-bit", "bitsandbytes"],
        ),
        ({"config.json": {"quantization_config": {"bits": "many"}}}, [], []),
        ({"tokenizer_config.json": {"chat_template": "{{ x }}"}}, [], ["conversational"]),
        ({"tokenizer_config.json": {"chat_template": 1}}, [], []),
        ({}, ["chat_template.jinja"], ["conversational"]),
    ],
)
def test_tags_from_files(configs: dict[str, Any], paths: list[str], tags: list[str]):
    assert list(facts_of("model", {}, configs, paths, None).tags) == tags


@pytest.mark.parametrize(
    ("name", "more", "task"),
    [
        ("T5ForConditionalGeneration", {}, "text2text-generation"),
        ("MBartForConditionalGeneration", {}, "text2text-generation"),
        ("MarianMTModel", {}, "text2text-generation"),
        ("WhisperForConditionalGeneration", {}, "automatic-speech-recognition"),
        ("Qwen2VLForConditionalGeneration", {"vision_config": {}}, "image-text-to-text"),
        ("NewForConditionalGeneration", {}, None),
    ],
)
def test_the_task_of_a_class(name: str, more: dict[str, Any], task: str | None):
    config = {"config.json": {"architectures": [name], **more}}
    assert facts_of("model", {}, config, ["config.json"], None).pipeline_tag == task


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("StableDiffusionXLPipeline", "text-to-image"),
        ("FluxPipeline", "text-to-image"),
        ("StableDiffusionXLImg2ImgPipeline", "image-to-image"),
        ("StableVideoDiffusionPipeline", "image-to-video"),
        ("WanPipeline", "text-to-video"),
        ("DDPMPipeline", "unconditional-image-generation"),
        ("CogView4Pipeline", "text-to-image"),
        ("CogVideoXPipeline", "text-to-video"),
        ("LattePipeline", "text-to-video"),
        ("ShapEPipeline", "text-to-3d"),
        ("MarigoldDepthPipeline", "depth-estimation"),
        ("MyPipeline", None),
    ],
)
def test_the_task_of_a_pipeline(name: str, task: str | None):
    facts = facts_of("model", {}, {"model_index.json": {"_class_name": name}}, ["model_index.json"], None)
    assert (facts.library, facts.pipeline_tag) == ("diffusers", task)
    assert list(facts.tags) == ["diffusers", *([task] if task else []), f"diffusers:{name}"]
    assert facts.config == {"diffusers": {"_class_name": name}}


def test_a_gguf_header_with_a_chat_template_is_for_conversations():
    headers = {"{{ x }}": ["gguf", "conversational"], None: ["gguf"]}
    for template, tags in headers.items():
        header = Gguf(total=1, architecture="llama", context_length=1, chat_template=template, file_type=None)
        assert list(facts_of("model", {}, {}, ["a.gguf"], None, gguf=header).tags) == tags


def test_links_to_papers_are_tags():
    text = "[a](https://arxiv.org/abs/1706.03762v5) https://arxiv.org/pdf/2001.00001.pdf hf.co/papers/1706.03762"
    text += " arxiv.org/html/2407.00001v2"
    for repo_type in ("model", "dataset"):
        found = facts_of(repo_type, {}, {}, [], None, text + " arxiv.org/abs/99999.1").tags
        assert found == ("arxiv:1706.03762", "arxiv:2001.00001", "arxiv:2407.00001")


def test_the_config_has_parts_of_other_files():
    configs = {
        "tokenizer_config.json": {"eos_token": {"content": "</s>"}, "chat_template": "{{ x }}", "added": {"1": 2}},
        "adapter_config.json": {"base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM", "r": 8},
    }
    assert facts_of("model", {}, configs, ["adapter_config.json"], None).config == {
        "tokenizer_config": {"eos_token": {"content": "</s>"}, "chat_template": "{{ x }}"},
        "peft": {"base_model_name_or_path": "org/base", "task_type": "CAUSAL_LM"},
    }


@pytest.mark.parametrize(
    ("card", "paths", "relation"),
    [
        ({"base_model": ["a/one", "a/two"]}, [], "merge"),
        ({"base_model": ["a/one", "a/one"]}, [], "finetune"),
        ({"base_model": "a/one"}, [], "finetune"),
        ({"base_model": "a/one", "tags": ["merge"]}, [], "merge"),
        ({"base_model": ["a/one", "a/two"], "base_model_relation": "finetune"}, [], "finetune"),
        ({"base_model": ["a/one", "a/two"]}, ["a.gguf"], "quantized"),
        ({"base_model": ["a/one", "a/two"]}, ["adapter_config.json"], "adapter"),
    ],
)
def test_the_relation_to_the_base_models(card: dict[str, Any], paths: list[str], relation: str):
    tags = facts_of("model", card, {}, paths, None).tags
    assert f"base_model:{relation}:a/one" in tags
    assert sum(tag.startswith("base_model:") for tag in tags) == 2 * len(set(_listed(card["base_model"])))


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def test_the_weight_files_that_describe_a_repo():
    assert safetensors_files(["a/model.safetensors", "b.safetensors", "model.safetensors"]) == ["model.safetensors"]
    assert safetensors_files(["adapter_model.safetensors"]) == ["adapter_model.safetensors"]
    assert safetensors_files(["a.safetensors", "b.safetensors"]) == []
    assert gguf_files(["Q8_0.gguf", "BF16/a.gguf", "mmproj-a.gguf"]) == ["Q8_0.gguf"]
    assert gguf_files(["BF16/a-00002-of-00002.gguf", "BF16/a-00001-of-00002.gguf", "Q4/b.gguf"]) == [
        "BF16/a-00001-of-00002.gguf",
        "BF16/a-00002-of-00002.gguf",
    ]
    assert gguf_files(["mmproj.gguf", "model.bin"]) == []
