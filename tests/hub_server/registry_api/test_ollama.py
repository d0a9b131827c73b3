"""`ollama pull`, and what RamaLama and older versions of llama.cpp ask for: the Hub's answers to them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from llmstack.hub_server.registry_api.chat_templates import go_template
from llmstack.oci.layout import Layout
from tests.hub_server.registry_api.test_model_pack import digest_of, errors
from tests.support.carried import carry
from tests.support.ollama import ACCEPT, PullError, pull
from tests.support.serving import Serving, serving
from tests.support.weight_files import gguf

pytestmark = pytest.mark.xdist_group("serving")

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
LLAMA = {"general.architecture": "llama", "general.file_type": 7, "tokenizer.chat_template": CHATML}
Q4, Q8 = gguf(LLAMA, {"w": [30_000]}, seed=1), gguf(LLAMA, {"w": [40_000]}, seed=2)
PROJECTOR = gguf({"general.architecture": "clip"}, {"w": [900]}, seed=3)
SHARDS = {f"m-F16-0000{number}-of-00002.gguf": gguf(LLAMA, {"w": [500]}, seed=number + 3) for number in (1, 2)}
CUSTOM = {
    "template": b"{{ .System }} {{ .Prompt }}",
    "params": b'{"temperature": 0.5, "stop": ["<|im_end|>"]}',
    "system": b"You are terse.",
    "LICENSE": b"MIT",
}
FILES = {
    "README.md": b"# GGUF",
    "m-Q4_K_M.gguf": Q4,
    "m-Q8_0.gguf": Q8,
    "mmproj-f16.gguf": PROJECTOR,
    **SHARDS,
    **CUSTOM,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub of a layout."""
    folder = tmp_path_factory.mktemp("ollama")
    models = Layout(folder / "models")
    carry(models, "Org--Quantized-GGUF", FILES, repo_id="Org/Quantized-GGUF")
    carry(models, "org--plain", {"only.gguf": Q4, "empty": b"", "system": b""}, repo_id="org/plain")
    carry(models, "org--sharded", SHARDS, repo_id="org/sharded")
    carry(models, "org--torch", {"model.safetensors": b"{}"}, repo_id="org/torch")
    carry(models, "org--bad", {"m-Q8_0.gguf": Q8, "params": b"temperature 0.5"}, repo_id="org/bad")
    for name in ("template", "system", "params"):
        carry(models, f"org--{name}", {"m-Q8_0.gguf": Q8, name: b"{}" + b" " * 1024**2}, repo_id=f"org/{name}")
    odd = (".gguf", "-Q6_K.gguf", "a b.gguf", "é.gguf", "plain.gguf", "x" * 130 + ".gguf", "mmproj.gguf")
    carry(models, "org--odd", {name: name.encode() for name in odd}, repo_id="org/odd")
    carry(models, "org--old--v1.0", {"m-Q8_0.gguf": Q8}, repo_id="org/old", revision="v1.0")
    with serving(folder, f"oci:{folder}") as hub:
        yield hub


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("latest", "Q4_K_M"),
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("Q8_0", "Q8_0"),
        ("m-Q8_0.gguf", "Q8_0"),
        ("M-q8_0.GGUF", "Q8_0"),
    ],
)
def test_ollama_pulls_a_quantization_in_any_case_or_a_file(hub: Serving, tag: str, label: str):
    pulled = pull(hub.url, "Org/Quantized-GGUF", tag)
    assert pulled.layer("model") == FILES[f"m-{label}.gguf"]
    assert pulled.layer("projector") == PROJECTOR
    for kind in ("template", "params", "system"):
        assert pulled.layer(kind) == CUSTOM[kind]
    assert pulled.layer("license") == CUSTOM["LICENSE"]
    assert pulled.config.items() >= {"model_format": "gguf", "architecture": "amd64", "os": "linux"}.items()
    assert (pulled.config["model_family"], pulled.config["file_type"]) == ("llama", label)
    assert pulled.config["model_type"] == ("30.0K" if label == "Q4_K_M" else "40.0K")


def test_empty_files_and_missing_ones_are_no_layers(hub: Serving):
    pulled = pull(hub.url, "org/plain")
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in json.loads(pulled.manifest)["layers"]]
    assert kinds == ["model", "template", "params"]
    assert pulled.layer("model") == Q4


def test_the_template_comes_from_the_gguf_file(hub: Serving):
    pulled = pull(hub.url, "org/plain")
    template = (pulled.layer("template") or b"").decode()
    assert template.endswith("<|im_start|>assistant\n{{ .Response }}<|im_end|>\n")
    assert json.loads(pulled.layer("params") or b"") == {"stop": ["<|im_start|>", "<|im_end|>"]}
    # The name of the file has no quantization.
    assert pulled.config["file_type"] == "Q8_0"


@pytest.mark.parametrize(
    ("jinja", "start"),
    [
        ("<|start_header_id|>{{ role }}<|end_header_id|><|eot_id|>", "{{ if .System }}<|start_header_id|>system"),
        ("<start_of_turn>{{ role }}<end_of_turn>", "<start_of_turn>user"),
        ("[INST] <<SYS>> {{ system }} <</SYS>> [/INST]", "[INST] {{ if .System }}<<SYS>>"),
        ("[INST] {{ content }} [/INST]", "[INST] {{ if .System }}{{ .System }}"),
        ("<|im_start|>user<|im_sep|>{{ content }}<|im_end|>", None),
        ("[SYSTEM_PROMPT]{{ system }}[/SYSTEM_PROMPT][INST]{{ content }}[/INST]", None),
        ("<|user|>{{ content }}<|end|>", None),
        ("", None),
    ],
)
def test_a_family_of_templates_is_known_by_its_tokens(jinja: str, start: str | None):
    found = go_template(jinja)
    assert (found is None) == (start is None)
    if found and start:
        assert found.text.startswith(start)
        assert "{{ .Response }}" in found.text
        assert all(token in jinja for token in found.tokens)


@pytest.mark.parametrize(
    ("name", "tag", "reason"),
    [
        ("Org/Quantized-GGUF", "F16", "several files"),
        ("Org/Quantized-GGUF", "m-F16-00001-of-00002.gguf", "llama-gguf-split --merge"),
        ("Org/Quantized-GGUF", "Q5_K_M", "available: latest, F16, Q4_K_M, Q8_0"),
        ("Org/Quantized-GGUF", "main", "available: latest"),
        ("org/sharded", "latest", "several files"),
        ("org/torch", "latest", "no GGUF files"),
        ("org/bad", "Q8_0", "params: invalid JSON"),
        ("org/template", "Q8_0", "template has 1,048,578 bytes, more than the 1,048,576"),
        ("org/system", "Q8_0", "system has 1,048,578 bytes, more than the 1,048,576"),
        ("org/params", "Q8_0", "params has 1,048,578 bytes, more than the 65,536"),
        ("org/old", "Q8_0", "revision main not found"),
    ],
)
def test_a_refusal_has_a_reason_that_ollama_shows(hub: Serving, name: str, tag: str, reason: str):
    with pytest.raises(PullError, match="400: ") as failed:
        pull(hub.url, name, tag)
    assert reason in str(failed.value)


def test_an_unknown_repo_does_not_exist(hub: Serving):
    with pytest.raises(PullError, match="file does not exist"):
        pull(hub.url, "org/other")


@pytest.mark.parametrize(("tag", "name"), [("latest", "m-Q4_K_M.gguf"), ("Q8_0", "m-Q8_0.gguf"), ("f16", min(SHARDS))])
def test_llama_cpp_gets_the_files_to_download(hub: Serving, tag: str, name: str):
    """Also the first of several: llama.cpp and RamaLama load the others by their names."""
    headers = {"User-Agent": "llama-cpp", "Accept": "application/json"}
    answer = hub.ask("GET", f"/v2/Org/Quantized-GGUF/manifests/{tag}", headers)
    value = json.loads(answer.body)
    assert value["ggufFile"]["rfilename"] == name
    assert value["ggufFile"]["blobId"] == digest_of(FILES[name])
    assert value["ggufFile"]["size"] == len(FILES[name])
    assert value["mmprojFile"]["rfilename"] == "mmproj-f16.gguf"
    assert hub.get(f"/Org/Quantized-GGUF/resolve/main/{name}").body == FILES[name]


def test_only_what_a_tag_can_be_is_listed(hub: Serving):
    tags = json.loads(hub.get("/v2/org/odd/tags/list").body)["tags"]
    assert tags == ["Q6_K", "latest", "main", "plain.gguf"]
    for tag in tags:
        assert hub.get(f"/v2/org/odd/manifests/{tag}").status == 200


def test_llama_cpp_needs_no_params(hub: Serving):
    headers = {"User-Agent": "llama-cpp", "Accept": "application/json"}
    answer = hub.ask("GET", "/v2/org/bad/manifests/Q8_0", headers)
    assert json.loads(answer.body)["ggufFile"]["rfilename"] == "m-Q8_0.gguf"


def test_the_accept_header_selects_the_manifest(hub: Serving):
    target = "/v2/Org/Quantized-GGUF/manifests/latest"
    oci = "application/vnd.oci.image.manifest.v1+json"
    index = "application/vnd.oci.image.index.v1+json"
    for accept in ("", "*/*", oci, f"{ACCEPT}, {oci}", f"{index}, {oci}, {ACCEPT}", "application/json"):
        assert hub.ask("GET", target, {"Accept": accept}).headers["content-type"] == oci, accept
    for accept in (ACCEPT, f"Accept: {ACCEPT}", f"{ACCEPT}, application/vnd.docker.distribution.manifest.list.v2+json"):
        answer = hub.ask("GET", target, {"Accept": accept})
        assert answer.headers["content-type"] == ACCEPT
        # By its digest, a manifest is the same for all clients.
        digest = answer.headers["docker-content-digest"]
        again = hub.get(f"/v2/org/quantized-gguf/manifests/{digest}", Accept=oci)
        assert (again.body, again.headers["content-type"]) == (answer.body, ACCEPT)


def test_other_manifests_of_a_repo_survive_what_ollama_cannot_load(hub: Serving):
    answer = hub.get("/v2/org/bad/manifests/latest")
    digest = answer.headers["docker-content-digest"]
    assert hub.get(f"/v2/org/bad/manifests/{digest}").body == answer.body
    missing = hub.get(f"/v2/org/bad/blobs/{digest_of(b'?')}")
    assert (missing.status, errors(missing)) == (404, ["BLOB_UNKNOWN"])


def test_a_repo_page_has_the_command_for_ollama(hub: Serving):
    def command(name: str, **headers: str) -> str | None:
        page = hub.get(f"/{name}", Accept="text/html", Host="hub.lab", **headers).body.decode()
        found = re.search(r"ollama pull [^<]*", page)
        return found[0].strip() if found else None

    assert command("Org/Quantized-GGUF") == "ollama pull --insecure hub.lab/Org/Quantized-GGUF"
    for name in ("org/sharded", "org/torch", "org/old"):
        assert command(name) is None
