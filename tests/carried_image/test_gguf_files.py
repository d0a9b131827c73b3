"""The GGUF files of a repo by quantization."""

from __future__ import annotations

import pytest

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.gguf_files import find_model, gguf_models, is_of_other, labels, projector


def files(*paths: str) -> list[IndexedFile]:
    return [IndexedFile(path, 100 + number, "", f"{number:064x}", ()) for number, path in enumerate(paths)]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("subdir/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("model.q4_k_m.gguf", "Q4_K_M"),
        ("Codestral-22B-v0.1-F32-Q2_K.gguf", "Q2_K"),
        ("Codestral-22B-v0.1-IQ3_XS.GGUF", "IQ3_XS"),
        ("Codestral-22B-v0.1.gguf", ""),
        ("Qwen3-4B-UD-Q2_K_XL.gguf", "UD-Q2_K_XL"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("m-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("m-bf16.gguf", "BF16"),
        ("m-Q3_K_M_v2.gguf", "Q3_K_M"),
        ("Q5_K_M/model-00001-of-00003.gguf", "Q5_K_M"),
        ("m-Q8_0-00001-of-00003.gguf", "Q8_0"),
        ("Qwen2_5-7B.gguf", ""),
        ("q8_0.gguf", "Q8_0"),
    ],
)
def test_the_quantization_in_a_name(path: str, label: str):
    [model] = gguf_models(files(path))
    assert model.label == label


def test_models_of_the_same_quantization_are_listed_by_their_file_names():
    models = gguf_models(files("a-Q8_0.gguf", "b-q8_0.gguf", "c.gguf", "deep/a-Q8_0.gguf", "deep/d-Q8_0.gguf"))
    assert labels(models) == ["Q8_0", "b-q8_0.gguf", "c.gguf", "d-Q8_0.gguf"]
    found = [find_model(models, tag) for tag in labels(models)]
    assert [model and model.name for model in found] == ["a-Q8_0.gguf", "b-q8_0.gguf", "c.gguf", "d-Q8_0.gguf"]


def test_a_tag_is_a_quantization_or_a_file_name_in_any_case():
    models = gguf_models(files("m-Q8_0.gguf", "m-IQ3_M.gguf", "deep/m-Q8_0.gguf", "other.gguf", "README.md"))
    assert labels(models) == ["IQ3_M", "Q8_0", "other.gguf"]
    for tag, path in (("q8_0", "m-Q8_0.gguf"), ("M-iq3_m.GGUF", "m-IQ3_M.gguf"), ("other.gguf", "other.gguf")):
        model = find_model(models, tag)
        assert model is not None
        assert model.files[0].path == path
    for tag in ("", "Q4_K_M", "m", "README.md", "main"):
        assert find_model(models, tag) is None


@pytest.mark.parametrize(
    ("paths", "latest"),
    [
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf", "a-Q4_0.gguf"], "a-Q4_K_M.gguf"),
        (["a-F16.gguf", "a-Q8_0.gguf", "a-Q5_K_M.gguf"], "a-Q5_K_M.gguf"),
        (["b.gguf", "a.gguf"], "b.gguf"),
        (["a-F32.gguf"], "a-F32.gguf"),
    ],
)
def test_latest_is_a_reasonable_quantization(paths: list[str], latest: str):
    model = find_model(gguf_models(files(*paths)), "latest")
    assert model is not None
    assert model.name == latest


def test_shards_are_one_model_also_if_not_all_are_carried():
    shards = files("m-F16-00002-of-00002.gguf", "m-F16-00001-of-00002.gguf", "m-00002-of-00009.gguf", "w-Q8_0.gguf")
    models = {model.name: model for model in gguf_models(shards)}
    assert len(models["m-F16-00001-of-00002.gguf"].files) == 2
    assert models["m-F16-00001-of-00002.gguf"].is_sharded
    assert models["m-00002-of-00009.gguf"].is_sharded
    assert not models["w-Q8_0.gguf"].is_sharded


def test_projectors_and_importance_matrices_are_no_models():
    listed = files("m-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-m-f16.gguf", "imatrix.gguf", "mmproj.bin")
    [model] = gguf_models(listed)
    assert model.name == "m-Q8_0.gguf"
    found = projector(listed)
    assert found is not None
    assert found.path == "mmproj-m-f16.gguf"
    assert projector(files("m.gguf")) is None
    assert [file.path for file in listed if is_of_other(file, model)] == ["imatrix.gguf"]
