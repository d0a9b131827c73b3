"""Pages of models: their numbers, GGUF quantizations and snippets."""

from __future__ import annotations

import html
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.hub_server.pages.model_numbers import Numbers, counted, numbers_of
from llmstack.hub_server.repo_facts import Weights
from llmstack.oci.layout import Layout
from tests.hub_server.conftest import HTML
from tests.support.carried import carry
from tests.support.serving import Serving, serving
from tests.support.weight_files import gguf, safetensors

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 32768}
README = b"""# Links

[base](https://huggingface.co/lab/base) [data](https://hf.co/datasets/lab/set#rows) [page](https://huggingface.co/lab/base/blob/main/config.json)
[away](https://huggingface.co/not/carried) [docs](https://huggingface.co/docs/hub) [<x>](https://huggingface.co/lab/base"onclick="alert(1))
"""


def lying_gguf() -> bytes:
    """Return a header that claims more tensors and entries than any file has."""
    return b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**62) + bytes(64)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub with models of several kinds."""
    folder = tmp_path_factory.mktemp("models")
    models, datasets = Layout(folder / "models"), Layout(folder / "datasets")
    config = json.dumps(CONFIG).encode()
    weights = safetensors({"a": ("BF16", (300, 100)), "b": ("F32", (10,))})
    carry(models, "lab--base", {"config.json": config, "model.safetensors": weights}, repo_id="lab/base")
    carry(datasets, "lab--set", {"README.md": README}, repo_id="lab/set", repo_type="dataset")
    entries: dict[str, object] = {"general.architecture": "llama", "llama.context_length": 8192}
    data = gguf(entries, {"t": (2000, 1000)})
    files = {f"m-{label}.gguf": data[:4096] + label.encode() for label in ("F16", "Q4_K_M", "IQ3_XXS")}
    files |= {"big/m-Q8_0-00001-of-00003.gguf": data, "mmproj-F16.gguf": data, "odd.gguf": b"GGUF", "README.md": README}
    carry(models, "lab--gguf", files, repo_id="lab/gguf")
    carry(models, "lab--lies", {"m-Q4_0.gguf": lying_gguf()}, repo_id="lab/lies")
    with serving(folder, f"oci:{folder}") as running:
        yield running


def page_of(hub: Serving, path: str) -> str:
    answer = hub.ask("GET", path, HTML)
    assert answer.status == 200
    return html.unescape(answer.body.decode())


def test_the_numbers_and_snippets_of_a_model(hub: Serving):
    page = page_of(hub, "/lab/base")
    for text in ("<dd>30.0K</dd>", "<dd>BF16</dd>", "<dd>32,768</dd>", "AutoModelForCausalLM.from_pretrained"):
        assert text in page
    assert "vllm serve lab/base" in page
    assert "llama-server" not in page


def test_the_quantizations_of_gguf_files(hub: Serving):
    page = page_of(hub, "/lab/gguf")
    table = page.partition('<table class="fold quantizations">')[2].partition("</table>")[0]
    for text in ("IQ3_XXS", ">3</td>", ">16</td>", "llama-server -hf lab/gguf:Q4_K_M", "Incomplete", "Unknown"):
        assert text in table
    assert f"ollama run --insecure 127.0.0.1:{hub.port}/lab/gguf:F16" in table
    assert "mmproj" not in table
    # The other two shards were not carried: it cannot run.
    assert "lab/gguf:Q8_0" not in table
    assert "8,192" in page
    assert "from_pretrained" not in page


def test_a_gguf_file_that_lies_has_no_numbers(hub: Serving):
    page = page_of(hub, "/lab/lies")
    assert "Parameters" not in page
    assert "Q4_0" in page


def test_links_to_carried_repos_lead_to_this_hub(hub: Serving):
    for path in ("/lab/gguf", "/datasets/lab/set"):
        page = page_of(hub, path)
        for target in ('"/lab/base"', '"/lab/base/blob/main/config.json"', '"https://huggingface.co/not/carried"'):
            assert f"href={target}" in page
        assert 'href="https://huggingface.co/docs/hub"' in page
        assert "<a onclick" not in page
    assert 'href="/datasets/lab/set#rows"' in page_of(hub, "/lab/gguf")


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        ({}, Numbers()),
        ({"torch_dtype": "bfloat16", "n_ctx": 1024}, Numbers(dtype="bfloat16", context=1024)),
        ({"text_config": {"dtype": "float16", "max_position_embeddings": 9}}, Numbers(dtype="float16", context=9)),
        ({"torch_dtype": ["x"], "max_position_embeddings": True, "text_config": []}, Numbers()),
        ({"max_position_embeddings": 10**30, "n_ctx": -1, "seq_length": 5.5}, Numbers()),
    ],
)
def test_numbers_of_a_config(config: dict[str, object], numbers: Numbers):
    assert numbers_of(Weights(), config) == numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [(999, "999"), (1000, "1.0K"), (7_615_616_512, "7.6B"), (999_960_000, "1000M"), (671 * 10**9, "671B")],
)
def test_parameters_are_counted_as_people_do(number: int, text: str):
    assert counted(number) == text


def test_the_revisions_of_a_repo_fit_on_a_phone(tmp_path: Path):
    models = Layout(tmp_path / "carried/models")
    for name in ("main", *(f"step-{number}000" for number in range(9))):
        tag = "lab--m" if name == "main" else f"lab--m--{name}"
        carry(
            models, tag, {"a.txt": b"a"}, repo_id="lab/m", revision=name, commit=name.encode().hex()[:40].ljust(40, "0")
        )
    with serving(tmp_path, f"oci:{tmp_path}/carried") as running:
        page = page_of(running, "/lab/m")
    assert "<summary>All revisions: 10</summary>" in page
    assert page.count("step-") > 8
