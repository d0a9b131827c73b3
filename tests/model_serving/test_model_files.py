"""Which server serves which files."""

from __future__ import annotations

import pytest

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UsageError
from llmstack.hf.snapshot import HubFile
from llmstack.model_serving.model_files import ModelFiles, choose_files


def files(*paths: str) -> tuple[HubFile, ...]:
    return tuple(HubFile(path, 1, "") for path in paths)


SAFETENSORS = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
PARTS = tuple(f"Q8_0/m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3))


def gguf(*needed: str, encoder: str | None = None) -> ModelFiles:
    return ModelFiles("llama.cpp", needed[0], encoder, (*needed, *([encoder] if encoder else [])))


@pytest.mark.parametrize(
    ("paths", "wanted", "expected"),
    [
        (SAFETENSORS, None, ModelFiles("vllm")),
        (("a.gguf", "README.md"), None, gguf("a.gguf")),
        (("a.gguf", *SAFETENSORS), None, gguf("a.gguf")),
        (("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf"), None, gguf("m-Q4_K_M.gguf")),
        (("m.Q8_0.gguf", "m.q4_k_m.gguf"), None, gguf("m.q4_k_m.gguf")),
        (("m-Q8_0.gguf", "m-Q4_K_M.gguf"), "q8_0", gguf("m-Q8_0.gguf")),
        (("UD/m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"), "ud-q4_k_xl", gguf("UD/m-UD-Q4_K_XL.gguf")),
        (("m-Q8_0.gguf", "a/m-Q4_K_M.gguf"), "m-Q4_K_M.gguf", gguf("a/m-Q4_K_M.gguf")),
        (("m-Q4_K_M.gguf", *PARTS), "Q8_0", gguf(*PARTS)),
        (PARTS, None, gguf(*PARTS)),
        (PARTS, PARTS[1], gguf(*PARTS)),
        (("BF16/m.gguf", "Q4_K_M/m.gguf"), None, gguf("Q4_K_M/m.gguf")),
        (("m-Q8_0.gguf", "m-Q6_K.gguf"), None, gguf("m-Q6_K.gguf")),
        (
            ("m-Q4_K_M.gguf", "mmproj-m-Q8_0.gguf", "mmproj-m-F16.gguf", "m.imatrix.gguf"),
            None,
            gguf("m-Q4_K_M.gguf", encoder="mmproj-m-F16.gguf"),
        ),
    ],
)
def test_the_files_decide_what_is_loaded(paths: tuple[str, ...], wanted: str | None, expected: ModelFiles):
    assert choose_files("org/m", files(*paths), None, wanted) == expected


def test_the_server_can_be_chosen():
    assert choose_files("org/m", files("a.gguf", *SAFETENSORS), "vllm", None) == ModelFiles("vllm")
    assert choose_files("org/m", files("a.gguf", *SAFETENSORS), "llama.cpp", None) == gguf("a.gguf")


def test_a_gguf_repo_is_not_said_to_be_pickles():
    with pytest.raises(UsageError, match="cannot be served by vllm: no safetensors files"):
        choose_files("org/m", files("a.gguf", "imatrix.bin"), "vllm", None)


@pytest.mark.parametrize(
    ("paths", "wanted", "error", "text"),
    [
        (("pytorch_model.bin", "config.json"), None, UsageError, "its weights are pickles only"),
        (("adapter_config.json", "adapter_model.safetensors"), None, UsageError, "adapter without its base model"),
        (("model_index.json", "unet/a.safetensors"), None, UsageError, "no config.json"),
        (("data.parquet",), None, UsageError, "no GGUF and no safetensors files"),
        (("m-Q8_0.gguf", "m-Q6_K.gguf"), "Q2_K", NotFoundError, "no such GGUF file or quantization"),
        (("m-Q8_0.gguf",), "other.gguf", NotFoundError, "no such GGUF file or quantization"),
        (PARTS[:2], None, IntegrityError, "Q8_0/m-Q8_0-00003-of-00003.gguf is missing: 2 of 3 files"),
        (PARTS[1:], None, IntegrityError, "Q8_0/m-Q8_0-00001-of-00003.gguf is missing"),
        (SAFETENSORS, "Q8_0", UsageError, "vLLM loads all files"),
    ],
)
def test_what_cannot_be_served_has_a_reason(
    paths: tuple[str, ...], wanted: str | None, error: type[LlmstackError], text: str
):
    with pytest.raises(error, match=text):
        choose_files("org/m", files(*paths), None, wanted)


def test_a_gguf_repo_has_no_files_for_vllm():
    with pytest.raises(UsageError, match="org/m: cannot be served by vllm: no safetensors files") as raised:
        choose_files("org/m", files("m-Q8_0.gguf"), "vllm", None)
    assert raised.value.hint == "serve its GGUF files with llama.cpp: leave --engine out"


def test_only_files_that_can_be_loaded_are_proposed():
    carried = files("m-Q8_0.gguf", "m-Q6_K.gguf", "big-Q4_0.gguf", *(f"s-BF16-0000{n}-of-00003.gguf" for n in (1, 2)))
    with pytest.raises(NotFoundError) as raised:
        choose_files("org/m", carried, None, "Q2_K", frozenset({"big-Q4_0.gguf"}))
    assert raised.value.hint == "it has Q6_K, Q8_0"
    with pytest.raises(NotFoundError) as raised:
        choose_files("org/m", files("m-Q8_0.gguf"), None, "Q2_K", frozenset({"m-Q8_0.gguf"}))
    assert raised.value.hint == "it has no GGUF file that llama.cpp can load from the image"
