"""Hugging Face's JavaScript clients: in node, and in a browser on a page of another origin."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmstack.oci.layout import Layout
from tests.hub_server.conftest import FILES, WEIGHTS
from tests.support.browser import chromium, visit
from tests.support.carried import COMMIT, carry
from tests.support.javascript import HUB, TRANSFORMERS, install_npm, run_node
from tests.support.serving import Serving, serving
from tests.support.weight_files import gguf, safetensors

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.system]

VOCABULARY = {"[UNK]": 0, "hello": 5, "world": 6}
TOKENIZER = json.dumps(
    {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
    }
).encode()
MODEL = {
    "README.md": b"---\nlicense: mit\ntags: [tiny]\npipeline_tag: fill-mask\n---\n",
    "config.json": b'{"architectures": ["BertForMaskedLM"], "model_type": "bert"}',
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}',
    "model.safetensors": safetensors({"a": ("F16", (300, 200)), "b": ("F32", (7,))}),
    "q8.gguf": gguf({"general.architecture": "bert", "bert.context_length": 512}, {"a": (8, 4)}),
}


def _packed(quantization: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, bytes]:
    config = json.dumps({"model_type": "llama", "quantization_config": quantization}).encode()
    return {"config.json": config, "model.safetensors": safetensors({**tensors, "norm.weight": ("F16", (7,))})}


# Models whose weights are packed.
PACKED = {
    "gptq": _packed(
        {"quant_method": "gptq", "bits": 4},
        {"a.qweight": ("I32", (8, 16)), "a.qzeros": ("I32", (1, 2)), "a.scales": ("F16", (1, 16))},
    ),
    "awq": _packed({"quant_method": "awq", "bits": 8}, {"a.qweight": ("I32", (8, 16)), "a.scales": ("F16", (1, 4))}),
    "bitsandbytes": _packed(
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"a.weight": ("U8", (10, 1)), "a.weight.absmax": ("F32", (5,)), "a.weight.quant_map": ("F32", (16,))},
    ),
    "compressed-tensors": _packed(
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8}}},
        },
        {"a.weight_packed": ("I32", (3, 5)), "a.weight_shape": ("I32", (2,)), "a.weight_scale": ("F16", (3, 1))},
    ),
    "mxfp4": _packed({"quant_method": "mxfp4"}, {"a_blocks": ("U8", (4, 4)), "a_scales": ("U8", (4,))}),
    "fp8": _packed({"quant_method": "fp8"}, {"a.weight": ("U8", (4, 4)), "a.weight_scale_inv": ("F32", (1, 1))}),
}


@pytest.fixture(scope="module")
def served_tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub with a model that JavaScript can use."""
    folder = tmp_path_factory.mktemp("tiny")
    carry(Layout(folder / "models"), "lab--tiny", MODEL, repo_id="lab/tiny")
    for method, files in PACKED.items():
        carry(Layout(folder / "models"), f"lab--{method}", files, repo_id=f"lab/{method}")
    with serving(folder / "logs", f"oci:{folder}") as hub:
        yield hub


EVERYTHING = """
import * as hub from "@huggingface/hub";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
const hubUrl = process.argv[1], cacheDir = process.argv[2];
console.debug = () => {};
const all = async (items) => { const found = []; for await (const item of items) found.push(item); return found; };
const names = async (items) => (await all(items)).map((item) => item.name);
const hex = async (blob) => Buffer.from(await blob.arrayBuffer()).toString("hex");
const repo = "org/model", dataset = { type: "dataset", name: "org/set" };
const refused = async (promise) => { try { await promise; } catch (error) { return error.statusCode; } };
const weights = await hub.downloadFile({ repo, path: "model.safetensors", hubUrl });
const snapshot = await hub.snapshotDownload({ repo: "org/parts", hubUrl, cacheDir });
const files = await all(hub.listFiles({ repo, recursive: true, expand: true, hubUrl }));
console.log(JSON.stringify({
  files: files.filter((file) => file.type == "file").map((file) => [file.path, file.size, file.lastCommit.id]),
  sizes: (await hub.pathsInfo({ repo, paths: ["config.json", "sub dir", "nothing"], hubUrl })).map((one) => one.path),
  empty: [(await hub.fileDownloadInfo({ repo, path: "empty.txt", hubUrl })).size,
          await hex(await hub.downloadFile({ repo, path: "empty.txt", hubUrl }))],
  weights: [weights.size, await hex(weights.slice(1000, 1010)), (await hex(weights)).length / 2],
  raw: await (await hub.downloadFile({ repo, path: "model.safetensors", raw: true, hubUrl })).text(),
  missing: await hub.downloadFile({ repo, path: "nothing", hubUrl }),
  exists: [await hub.fileExists({ repo, path: "config.json", hubUrl }),
           await hub.fileExists({ repo, path: "a", hubUrl }),
           await hub.repoExists({ repo, hubUrl }), await hub.repoExists({ repo: "org/other", hubUrl })],
  legacy: await (await hub.downloadFile({ repo: "gpt2", path: "config.json", hubUrl })).text(),
  case: (await hub.modelInfo({ name: "Org/MODEL", additionalFields: ["sha", "tags"], hubUrl })).sha,
  dataset: (await hub.datasetInfo({ name: "org/set", additionalFields: ["sha"], hubUrl })).name,
  table: await (await hub.downloadFile({ repo: dataset, path: "data/train.csv", hubUrl })).text(),
  models: await names(hub.listModels({ search: { query: "mod", owner: "org", tags: ["small"] }, hubUrl })),
  tasks: await names(hub.listModels({ search: { task: "fill-mask" }, hubUrl })),
  sorted: (await all(hub.listModels({ sort: "id", limit: 2, additionalFields: ["library_name", "filePaths"], hubUrl })))
    .map((m) => [m.name, m.filePaths.length]),
  largest: (await names(hub.listModels({ sort: "num_parameters", hubUrl }))).slice(0, 1),
  longest: await names(hub.listDatasets({ sort: "datasetsServerInfo.numRows", hubUrl })),
  datasets: await names(hub.listDatasets({ search: { owner: "org" }, additionalFields: ["tags"], hubUrl })),
  commits: [(await all(hub.listCommits({ repo, hubUrl }))).map((commit) => commit.oid),
            await hub.countCommits({ repo, revision: "HEAD", hubUrl })],
  access: [await refused(hub.checkRepoAccess({ repo, hubUrl })) ?? 200,
           await refused(hub.checkRepoAccess({ repo: "org/other", hubUrl }))],
  who: (await hub.whoAmI({ accessToken: "hf_some", hubUrl })).name,
  refused: await refused(all(hub.listModels({ search: { apps: ["vllm"] }, hubUrl }))),
  snapshot: [snapshot.split("/").at(-1),
             createHash("sha256").update(await readFile(snapshot + "/w.bin")).digest("hex")],
}));
"""


def test_everything_that_huggingface_js_does(served_layout: Serving, tmp_path: Path):
    packages = install_npm("hub", *HUB)
    found = json.loads(run_node(packages, EVERYTHING, tmp_path / "home", served_layout.url, str(tmp_path / "cache")))
    assert found.pop("raw").startswith("version https://git-lfs.github.com/spec/v1\n")
    assert found == {
        "files": [[path, len(data), COMMIT] for path, data in FILES.items()],
        "sizes": ["config.json", "sub dir"],
        "empty": [0, ""],
        "weights": [len(WEIGHTS), WEIGHTS[1000:1010].hex(), len(WEIGHTS)],
        "missing": None,
        "exists": [True, False, True, False],
        "legacy": '{"n": 2}',
        "case": COMMIT,
        "dataset": "org/set",
        "table": "a,b\n1,2\n",
        "models": ["org/model"],
        "tasks": [],
        "sorted": [["gpt2", 1], ["org/model", len(FILES)]],
        "largest": ["gpt2"],
        "longest": ["org/set"],
        "datasets": ["org/set"],
        "commits": [[COMMIT], 1],
        "access": [200, 404],
        "who": "reader",
        "refused": 400,
        "snapshot": [COMMIT, hashlib.sha256(WEIGHTS).hexdigest()],
    }


HEADERS = """
import { parseSafetensorsMetadata } from "@huggingface/hub";
import { gguf } from "@huggingface/gguf";
const hubUrl = process.argv[1];
const counted = { computeParametersCount: true };
const { parameterCount, header } = await parseSafetensorsMetadata({ repo: "lab/tiny", hubUrl, ...counted });
const file = await gguf(hubUrl + "/lab/tiny/resolve/main/q8.gguf", counted);
const info = await (await fetch(hubUrl + "/api/models/lab/tiny")).json();
console.log(JSON.stringify([parameterCount, header.a.shape, file.metadata["general.architecture"],
  file.tensorInfos[0].shape.map(Number), file.parameterCount, info.safetensors.parameters, info.gguf.total]));
"""


def test_the_headers_that_javascript_reads_are_those_of_the_info(served_tiny: Serving, tmp_path: Path):
    found = json.loads(run_node(install_npm("hub", *HUB), HEADERS, tmp_path, served_tiny.url))
    counts = {"F16": 60_000, "F32": 7}
    assert found == [counts, [300, 200], "bert", [8, 4], 32, counts, 32]


COUNTS = """
import { parseSafetensorsMetadata } from "@huggingface/hub";
const [hubUrl, ...names] = process.argv.slice(1);
const found = {};
for (const name of names) {
  const repo = "lab/" + name;
  const { parameterCount } = await parseSafetensorsMetadata({ repo, hubUrl, computeParametersCount: true });
  const info = await (await fetch(hubUrl + "/api/models/" + repo)).json();
  found[name] = [parameterCount, info.safetensors.parameters];
}
console.log(JSON.stringify(found));
"""


def test_packed_weights_are_counted_as_javascript_does(served_tiny: Serving, tmp_path: Path):
    found = json.loads(run_node(install_npm("hub", *HUB), COUNTS, tmp_path, served_tiny.url, *PACKED))
    assert found["gptq"] == [{"I32": 1024, "F16": 7}] * 2
    for theirs, ours in found.values():
        assert theirs == ours


IN_NODE = """
import { env, AutoConfig, AutoTokenizer } from "@huggingface/transformers";
env.remoteHost = process.argv[1] + "/"; env.cacheDir = process.argv[2]; env.allowLocalModels = false;
const tokenizer = await AutoTokenizer.from_pretrained("lab/tiny");
const config = await AutoConfig.from_pretrained("LAB/tiny", { revision: "HEAD" });
console.log(JSON.stringify([[...(await tokenizer("hello world")).input_ids.data].map(Number), config.model_type]));
"""


@pytest.mark.slow
def test_transformers_js_in_node(served_tiny: Serving, tmp_path: Path):
    packages = install_npm("transformers", *TRANSFORMERS)
    output = run_node(packages, IN_NODE, tmp_path / "home", served_tiny.url, str(tmp_path / "cache"))
    assert json.loads(output) == [[5, 6], "bert"]


PAGE = """<!doctype html><meta charset="utf-8"><body><script type="module">
import { env, AutoConfig, AutoTokenizer } from "/transformers.min.js";
const hub = new URLSearchParams(location.search).get("hub");
env.remoteHost = hub + "/"; env.allowLocalModels = false;
try {
  const tokenizer = await AutoTokenizer.from_pretrained("lab/tiny");
  const config = await AutoConfig.from_pretrained("lab/tiny");
  const part = await fetch(hub + "/lab/tiny/resolve/main/model.safetensors", { headers: { Range: "bytes=0-7" } });
  const paths = await fetch(hub + "/api/models/lab/tiny/paths-info/main", { method: "POST",
    headers: { "Content-Type": "application/json", Authorization: "Bearer hf_any" },
    body: JSON.stringify({ paths: ["config.json"] }) });
  const list = await fetch(hub + "/api/models?search=tiny&limit=1&expand=sha");
  const missing = await fetch(hub + "/lab/tiny/resolve/main/nothing");
  document.body.textContent = JSON.stringify([
    [...(await tokenizer("world hello")).input_ids.data].map(Number), config.model_type,
    part.status, part.headers.get("Content-Range"), part.headers.get("X-Repo-Commit"),
    (await paths.json())[0].path, (await list.json())[0].id, missing.status, missing.headers.get("X-Error-Code")]);
} catch (error) { document.body.textContent = JSON.stringify(["" + error]); }
</script>"""


@pytest.mark.browser
@pytest.mark.slow
def test_transformers_js_on_a_page_of_another_origin(served_tiny: Serving, tmp_path: Path):
    packages = install_npm("transformers", *TRANSFORMERS) / "node_modules/@huggingface/transformers"
    shutil.copy(packages / "dist/transformers.min.js", tmp_path)
    (tmp_path / "index.html").write_text(PAGE)
    with pages(tmp_path) as origin, chromium() as browser:
        url = f"{origin}/index.html?hub={served_tiny.url}"
        with visit(browser, url) as visited:
            visited.page.wait_for_function("document.body.textContent.startsWith('[')")
            found = json.loads(visited.page.inner_text("body"))
            assert {urlsplit(asked).hostname for asked in visited.requests} == {"127.0.0.1"}
    size = len(MODEL["model.safetensors"])
    read = [206, f"bytes 0-7/{size}", COMMIT, "config.json", "lab/tiny", 404, "EntryNotFound"]
    assert found == [[6, 5], "bert", *read]


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """Serve a folder; yield its origin."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
