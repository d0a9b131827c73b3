"""Lists and infos: every parameter filters, sorts or selects, and what is unknown is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from llmstack.hub_server.error_answers import AnswerError
from llmstack.hub_server.repo_info import ALWAYS, EXPANDABLE, basic
from llmstack.hub_server.repo_lists import ListQuery
from llmstack.hub_server.repos import make_repo
from llmstack.oci.layout import Layout
from tests.hub_server.test_pages import repo
from tests.support.carried import carry
from tests.support.serving import Serving, run_client, serving
from tests.support.weight_files import gguf, safetensors

pytestmark = pytest.mark.xdist_group("serving")

TUNED = b"""---
language: [en, no]
license: apache-2.0
datasets: [squad, org/set]
base_model: org/base
tags: [chat, tiny]
library_name: transformers
model-index: [{name: tuned}]
---
# Tuned
"""
BASE = b"---\nlanguage: de\nlicense: mit\npipeline_tag: fill-mask\n---\n"
SET = b"""---
language: [en]
license: [mit, cc-by-4.0]
task_categories: [question-answering]
size_categories: [n<1K]
tags: [croissant]
---
"""
LLAMA = {"general.architecture": "llama", "llama.context_length": 4096, "tokenizer.chat_template": "{{ x }}"}


@pytest.fixture(scope="module")
def served_cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub with repos that declare something, and some that are damaged."""
    folder = tmp_path_factory.mktemp("cards")
    models = Layout(folder / "models")
    shards = {
        f"model-{number:05}-of-00002.safetensors": safetensors({f"w{number}": (dtype, (10, number))})
        for number, dtype in ((1, "F16"), (2, "I32"))
    }
    config = json.dumps({"architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": 1}).encode()
    deep = b'{"architectures": ' + b"[" * 900 + b"]" * 900 + b', "quantization_config": {"a": 1e999, "b": 4}}'
    repos = {
        "org/base": {"README.md": BASE, "model.safetensors": safetensors({"a": ("F32", (3, 4))})},
        "org/tuned": {"README.md": TUNED, "config.json": config, **shards},
        "lab/chat-GGUF": {
            "README.md": b"---\nbase_model: org/tuned\ntags: gguf\n---\n",
            "mmproj.gguf": b"no",
            "q4-00001-of-00002.gguf": gguf(LLAMA, {"a": (4, 8)}),
            "q4-00002-of-00002.gguf": gguf({}, {"b": (5,)}),
        },
        "art/paint": {
            "README.md": b"See https://arxiv.org/abs/2112.10752\n",
            "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
            "tokenizer_config.json": b'{"chat_template": "{{ x }}"}',
        },
        "bad/cards": {"README.md": b"---\n{\n---\n", "config.json": b"[" * 100_000, "model.safetensors": b"\xff" * 99},
        "bad/deep": {"README.md": b"---\ntags: {a: [b]}\nlanguage: 7\n---\n", "config.json": deep, "a.gguf": b"GGUF"},
    }
    for repo_id, files in repos.items():
        carry(models, repo_id.replace("/", "--"), files, repo_id=repo_id)
    datasets = Layout(folder / "datasets")
    carry(datasets, "org--set", {"README.md": SET, "a.csv": b"a"}, repo_id="org/set", repo_type="dataset")
    carry(datasets, "lab--more", {"a.csv": b"a"}, repo_id="lab/more", repo_type="dataset")
    with serving(folder / "logs", f"oci:{folder}") as hub:
        yield hub


def listed(hub: Serving, repo_type: str = "models", *pairs: tuple[str, str], **query: str) -> list[dict[str, Any]]:
    answer = hub.get(f"/api/{repo_type}?{urlencode([*query.items(), *pairs])}")
    assert answer.status == 200, answer.body
    value = json.loads(answer.body)
    assert isinstance(value, list)
    return value


def ids(hub: Serving, repo_type: str = "models", *pairs: tuple[str, str], **query: str) -> list[str]:
    return [item["id"] for item in listed(hub, repo_type, *pairs, **query)]


ALL = ["art/paint", "bad/cards", "bad/deep", "lab/chat-GGUF", "org/base", "org/tuned"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"search": "BAS"}, ["org/base"]),
        ({"author": "ORG"}, ["org/base", "org/tuned"]),
        ({"author": "org", "search": "tune"}, ["org/tuned"]),
        ({"filter": "safetensors"}, ["bad/cards", "org/base", "org/tuned"]),
        ({"filter": "en"}, ["org/tuned"]),
        ({"filter": "en,chat"}, ["org/tuned"]),
        ({"filter": "en,de"}, []),
        ({"filter": "dataset:squad"}, ["org/tuned"]),
        ({"filter": "base_model:org/base"}, ["org/tuned"]),
        ({"filter": "base_model:quantized:org/tuned"}, ["lab/chat-GGUF"]),
        ({"filter": "region:us"}, []),
        ({"dataset": "org/set"}, ["org/tuned"]),
        ({"language": "no"}, ["org/tuned"]),
        ({"license": "apache-2.0"}, ["org/tuned"]),
        ({"license": "license:mit", "author": "org"}, ["org/base"]),
        ({"library": "transformers"}, ["bad/deep", "org/tuned"]),
        ({"library": "gguf"}, ["bad/deep", "lab/chat-GGUF"]),
        ({"pipeline_tag": "text-generation"}, ["org/tuned"]),
        ({"pipeline_tag": "fill-mask", "filter": "de"}, ["org/base"]),
        ({"pipeline_tag": "chat"}, []),
        ({"num_parameters": "min:30"}, ["lab/chat-GGUF", "org/tuned"]),
        ({"num_parameters": "min:0.012K,max:36"}, ["org/base", "org/tuned"]),
        ({"num_parameters": "max:1b", "filter": "gguf"}, ["lab/chat-GGUF"]),
        ({"apps": "ollama"}, ["bad/deep", "lab/chat-GGUF"]),
        ({"apps": "llama.cpp,ollama", "author": "lab"}, ["lab/chat-GGUF"]),
        ({"inference": "warm"}, []),
        ({"inference_provider": "all"}, []),
        ({"gated": "True"}, []),
        ({"gated": "false"}, ALL),
        ({"sort": "id", "direction": "-1"}, ALL[::-1]),
        ({"sort": "downloads"}, ALL),
        ({"sort": "trending_score"}, ALL),
        ({"sort": "created_at", "direction": "1"}, ALL),
        ({"sort": "num_parameters"}, ["lab/chat-GGUF", "org/tuned", "org/base", "art/paint", "bad/cards", "bad/deep"]),
        ({"sort": "num_parameters", "direction": "1", "author": "org"}, ["org/base", "org/tuned"]),
        ({"sort": "mainSize", "author": "org"}, ["org/tuned", "org/base"]),
        ({"sort": "mainSize", "author": "org", "direction": "1"}, ["org/base", "org/tuned"]),
        ({"limit": "2"}, ALL[:2]),
        ({"limit": "2", "cursor": "5"}, ALL[5:]),
        ({"filter": "arxiv:2112.10752,conversational"}, ["art/paint"]),
        ({"filter": "gguf,conversational"}, ["lab/chat-GGUF"]),
        ({"pipeline_tag": "text-to-image", "filter": "diffusers:StableDiffusionPipeline"}, ["art/paint"]),
        ({"search": "", "author": ""}, ALL),
    ],
)
def test_a_parameter_of_the_list_of_models(served_cards: Serving, query: dict[str, str], expected: list[str]):
    assert ids(served_cards, "models", **query) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["lab/more", "org/set"]),
        ({"filter": "task_categories:question-answering"}, ["org/set"]),
        ({"task_categories": "question-answering", "language": "en"}, ["org/set"]),
        ({"language": "language:en", "size_categories": "n<1K"}, ["org/set"]),
        ({"license": "cc-by-4.0"}, ["org/set"]),
        ({"license": "mit"}, ["lab/more", "org/set"]),
        ({"filter": "croissant", "author": "lab"}, []),
    ],
)
def test_a_parameter_of_the_list_of_datasets(served_cards: Serving, query: dict[str, str], expected: list[str]):
    assert ids(served_cards, "datasets", **query) == expected


def test_several_filters_must_all_match(served_cards: Serving):
    assert ids(served_cards, "models", ("filter", "en"), ("filter", "no"), ("search", "org"), ("search", "t")) == [
        "org/tuned"
    ]
    assert ids(served_cards, "models", ("filter", "en"), ("filter", "de")) == []


@pytest.mark.parametrize(
    ("repo_type", "query", "word"),
    [
        ("models", "colour=red", "'colour'"),
        ("models", "inference=cold", "inference"),
        ("models", "apps=vllm", "'vllm'"),
        ("models", "apps=", "apps"),
        ("datasets", "apps=ollama", "'apps'"),
        ("models", "task_ids=a", "'task_ids'"),
        ("datasets", "pipeline_tag=a", "'pipeline_tag'"),
        ("models", "sort=colour", "'colour'"),
        ("models", "sort=id&sort=likes", "sort"),
        ("models", "direction=down", "direction"),
        ("models", "limit=-1", "limit"),
        ("models", "cursor=a", "cursor"),
        ("models", "gated=maybe", "gated"),
        ("models", "gated=", "gated"),
        ("models", "filter=,", "filter"),
        ("models", "filter=", "filter"),
        ("models", "pipeline_tag=", "pipeline_tag"),
        ("models", "num_parameters=", "num_parameters"),
        ("datasets", "license=", "license"),
        ("datasets", "license=,", "license"),
        ("models", "limit=", "limit"),
        ("models/org/base", "blobs=maybe", "blobs"),
        ("models/org/base/refs", "include_prs=maybe", "include_prs"),
        ("models/org/base/commits/main", "p=x", "p:"),
        ("models/org/base/commits/main", "limit=x", "limit"),
        ("models/org/base/tree/main", "cursor=abc", "cursor"),
        ("models/org/base/tree/main", "cursor=99999999999", "cursor"),
        ("models/org/base/tree/main", "limit=abc", "limit"),
        ("models/org/base/tree/main", "limit=-5", "limit"),
        ("models/org/base/tree/main", "recursive=yes", "recursive"),
        ("models/org/base/tree/main", "expand=all", "expand"),
        ("models", "num_parameters=many", "num_parameters"),
        ("datasets", "num_parameters=min:1", "'num_parameters'"),
        ("models", "full=maybe", "full"),
        ("models", "expand=colour", "'colour'"),
        ("models/org/base", "expand=colour", "'colour'"),
        ("models/org/base", "expand[]=colour", "'colour'"),
        ("datasets", "expand=gguf", "'gguf'"),
    ],
)
def test_what_is_unknown_is_refused_by_name(served_cards: Serving, repo_type: str, query: str, word: str):
    answer = served_cards.get(f"/api/{repo_type}?{query}")
    assert (answer.status, answer.headers["x-error-code"]) == (400, "BadRequest")
    assert word in json.loads(answer.body)["error"]


@pytest.mark.parametrize("target", ["models", "datasets", "models/org/base/tree/main", "models/org/base/commits/main"])
def test_a_limit_of_0_gives_an_empty_list(served_cards: Serving, target: str):
    answer = served_cards.get(f"/api/{target}?limit=0")
    assert (answer.status, json.loads(answer.body), "link" in answer.headers) == (200, [], False)


def test_pages_have_links_that_keep_the_query(served_cards: Serving):
    found, target = [], "/api/models?limit=1&filter=safetensors&expand=sha&search="
    while target:
        answer = served_cards.get(target)
        found += [item["id"] for item in json.loads(answer.body)]
        assert all(set(item) == {"_id", "id", "modelId", "sha"} for item in json.loads(answer.body))
        target = answer.headers.get("link", "").partition(">")[0].removeprefix(f"<{served_cards.url}")
    assert found == ["bad/cards", "org/base", "org/tuned"]


def test_fields_of_a_list(served_cards: Serving):
    item = listed(served_cards, search="tuned")[0]
    assert item["tags"] == [
        *("transformers", "safetensors", "opt", "text-generation", "chat", "tiny", "en", "no"),
        *("dataset:squad", "dataset:org/set", "base_model:org/base", "base_model:finetune:org/base"),
        "license:apache-2.0",
    ]
    assert (item["pipeline_tag"], item["library_name"]) == ("text-generation", "transformers")
    assert {"cardData", "siblings", "config", "safetensors"}.isdisjoint(item)
    full = listed(served_cards, search="tuned", full="true", config="True")[0]
    assert full["cardData"]["base_model"] == "org/base"
    assert len(full["siblings"]) == 4
    assert full["config"] == {"architectures": ["OPTForCausalLM"], "model_type": "opt"}
    assert "cardData" in listed(served_cards, search="tuned", cardData="True")[0]
    fields = [("expand", "gguf"), ("expand[]", "safetensors"), ("expand", "downloadsAllTime")]
    expanded = {item["id"]: item for item in listed(served_cards, "models", *fields)}
    assert set(expanded["org/tuned"]) == {"_id", "id", "modelId", "safetensors"}
    assert expanded["lab/chat-GGUF"]["gguf"]["total"] == 37


def test_the_info_says_what_the_weights_are(served_cards: Serving):
    def info(repo_id: str) -> dict[str, Any]:
        return dict(json.loads(served_cards.get(f"/api/models/{repo_id}").body))

    assert info("org/tuned")["safetensors"] == {"parameters": {"F16": 10, "I32": 20}, "total": 30}
    assert info("org/base")["safetensors"] == {"parameters": {"F32": 12}, "total": 12}
    expected = {"total": 37, "architecture": "llama", "context_length": 4096, "chat_template": "{{ x }}"}
    assert info("lab/chat-GGUF")["gguf"] == expected
    assert info("org/tuned")["model-index"] == [{"name": "tuned"}]
    for repo_id in ("bad/cards", "bad/deep"):
        value = info(repo_id)
        assert {"safetensors", "gguf", "pipeline_tag"}.isdisjoint(value)
        assert len(value["siblings"]) == 3
    assert info("bad/deep")["config"] == {"architectures": [], "quantization_config": {"b": 4}}
    without = json.loads(served_cards.get("/api/models/org/base?expand=gguf&expand=xetEnabled").body)
    assert set(without) == {"_id", "id", "modelId"}


def test_gated_repos_are_selected_and_shown():
    gated = make_repo("model", "org/gated", [replace(repo("model", "org/gated", 1).shown, gated=True)])
    repos = [repo("model", "org/open", 1), gated]
    for text, expected in (("true", [gated]), ("False", [repos[0]])):
        assert ListQuery.parse("model", QueryParams(f"gated={text}")).candidates(repos) == expected
    assert [basic(item.shown)["gated"] for item in repos] == [False, "manual"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("author=new", True),
        ("search=New/Name", True),
        ("author=New&search=name", True),
        ("author=old&search=former", True),
        ("author=New&search=former", False),
        ("author=Ne", False),
    ],
)
def test_a_renamed_repo_is_found_by_both_ids(query: str, found: bool):
    renamed = make_repo("model", "old/former", [replace(repo("model", "old/former", 1).shown, renamed_to="New/Name")])
    expected = [renamed] if found else []
    assert ListQuery.parse("model", QueryParams(query)).candidates([repo("model", "org/a", 1), renamed]) == expected


# Each keyword argument of the clients that selects, sorts or adds something, where a version has it.
CLIENT = """
import inspect, json
from huggingface_hub import HfApi
api = HfApi()

def ids(function, **arguments):
    if unknown := arguments.keys() - inspect.signature(function).parameters.keys():
        return sorted(unknown)
    return [item.id for item in function(**arguments)]

models, datasets = api.list_models, api.list_datasets
found = list(models(author="org", full=True, cardData=True, fetch_config=True))
fields = ["safetensors", "tags", "downloads"]
has_expand = "expand" in inspect.signature(models).parameters
expanded = next(iter(models(search="tuned", expand=fields) if has_expand else models(search="tuned")))
print(json.dumps({
    "filter": ids(models, filter=["safetensors", "en"]),
    "author": ids(models, author="lab"),
    "search": ids(models, search="base"),
    "pipeline_tag": ids(models, pipeline_tag="text-generation"),
    "trained_dataset": ids(models, trained_dataset="squad"),
    "gated": ids(models, gated=True),
    "sort": ids(models, sort="last_modified", limit=2),
    "direction": ids(models, sort="createdAt", direction=-1, limit=2),
    "library": ids(models, library="transformers", author="org"),
    "task": ids(models, task="fill-mask"),
    "language": ids(models, language=["en", "no"]),
    "tags": ids(models, tags="chat"),
    "num_parameters": ids(models, num_parameters="min:31,max:1B"),
    "full": [[len(model.siblings), model.card_data.license, model.config] for model in found],
    "expand": [expanded.safetensors.total if has_expand else 30, "en" in expanded.tags, expanded.downloads],
    "datasets": ids(datasets, filter=["task_categories:question-answering", "size_categories:n<1K", "language:en"]),
    "keywords": ids(datasets, task_categories="question-answering", size_categories="n<1K", language="en"),
    "more": ids(datasets, author="lab", full=True),
    "none": ids(datasets, filter="license:mit", search="nothing"),
    "commits": [item.title for item in api.list_repo_commits("org/base")],
    "discussions": list(api.get_repo_discussions("org/base")),
}))
try:
    print(json.dumps(ids(models, apps="vllm")))
except Exception as error:
    print(json.dumps(str(error)))
"""
NOT_IN_ALL = {
    "author": "lab/chat-GGUF",
    "direction": "art/paint bad/cards",
    "gated": "",
    "language": "org/tuned",
    "library": "org/tuned",
    "more": "lab/more",
    "num_parameters": "lab/chat-GGUF",
    "pipeline_tag": "org/tuned",
    "tags": "org/tuned",
    "task": "org/base",
}


@pytest.mark.parametrize("version", ["0.23", "0.36", "1", "2"])
def test_the_parameters_of_real_clients(
    version: str, clients: Mapping[str, Path], served_cards: Serving, tmp_path: Path
):
    lines = run_client(clients[version], served_cards.url, tmp_path, "-c", CLIENT).splitlines()
    found, refused = map(json.loads, lines)
    for name, expected in NOT_IN_ALL.items():
        assert found.pop(name) in ([name], expected.split())
    # Version 0.23 sends `['en']:en` for the language.
    assert found.pop("keywords") == ([] if version == "0.23" else ["org/set"])
    assert found == {
        "filter": ["org/tuned"],
        "search": ["org/base"],
        "trained_dataset": ["org/tuned"],
        "sort": ALL[:2],
        "full": [[2, "mit", None], [4, "apache-2.0", {"architectures": ["OPTForCausalLM"], "model_type": "opt"}]],
        "expand": [30, True, 0],
        "datasets": ["org/set"],
        "none": [],
        "commits": ["Carried as main"],
        "discussions": [],
    }
    assert refused == ["apps"] or "apps: 'vllm' is unknown" in refused


def test_hf_models_ls(clients: Mapping[str, Path], served_cards: Serving, tmp_path: Path):
    command = [str(clients["2"] / "bin/hf"), "models", "ls", "--filter", "transformers", "--author", "org", "--json"]
    output = run_client(clients["2"], served_cards.url, tmp_path, *command)
    assert [item["id"] for item in json.loads(output)] == ["org/tuned"]


NAMES = st.sampled_from(
    ["filter", "search", "sort", "limit", "expand", "expand[]", "gated", "license", "full", "cursor"]
)
TEXT = st.one_of(st.sampled_from(["true", "1", "id", "tags", "siblings", "gguf", "en"]), st.text(max_size=6))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(NAMES, TEXT), TEXT), max_size=4), st.sampled_from(["models", "datasets"]))
def test_any_query_gets_an_answer(served_cards: Serving, pairs: list[tuple[str, str]], repo_type: str):
    answer = served_cards.get(f"/api/{repo_type}?{urlencode(pairs, errors='replace')}")
    assert answer.status in {200, 400}
    json.loads(answer.body)


@given(st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=5))
def test_a_query_is_parsed_or_refused(pairs: list[tuple[str, str]]):
    with contextlib.suppress(AnswerError):
        query = ListQuery.parse("model", QueryParams(pairs))
        assert 1 <= query.limit <= 1000
        assert query.fields <= EXPANDABLE["model"] | ALWAYS
