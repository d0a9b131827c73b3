"""`/v2/` as a registry of ModelPack artifacts: the same files as the Hub's API, in the form of the OCI specs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.naming import Namespace
from llmstack.hub_server.facts_index import FactsIndex
from llmstack.hub_server.registry_api.artifacts import Artifacts
from llmstack.hub_server.registry_api.model_facts import ModelFacts
from llmstack.hub_server.registry_api.model_pack import model_pack
from llmstack.hub_server.server import open_repo_index
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.repository import Registries
from llmstack.oci.spec import LAYER_TAR, Descriptor
from tests.hub_server.conftest import FILES, IN_PARTS, OLD, WEIGHTS
from tests.hub_server.test_pages import repo
from tests.support import layers
from tests.support.carried import COMMIT, carry, put_image
from tests.support.registry import Registry
from tests.support.serving import Answer, Serving, push, repository, serving
from tests.support.weight_files import gguf, safetensors

pytestmark = pytest.mark.xdist_group("serving")

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
CONFIG = {"model_type": "qwen2", "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "awq"}}
MODEL = {
    "README.md": b"# Tiny",
    "config.json": json.dumps(CONFIG).encode(),
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "copy/model.safetensors": WEIGHTS,
    "sub dir/a+b%2F\u00e9.json": b"[1]",
    "sub dir/run.py": b"pass",
}
QUANTIZED = {
    "README.md": b"# GGUF",
    "m-Q4_K_M.gguf": gguf({"general.architecture": "llama"}, {"w": [5, 100]}, seed=1),
    "m-Q8_0.gguf": gguf({"general.architecture": "llama"}, {"w": [70, 100]}, seed=2),
    "mmproj-F16.gguf": gguf({"general.architecture": "clip"}, {"w": [90]}, seed=3),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub of a layout."""
    folder = tmp_path_factory.mktemp("packs")
    models, datasets = Layout(folder / "models"), Layout(folder / "datasets")
    carry(models, "Org--Tiny", MODEL, repo_id="Org/Tiny")
    carry(models, "Org--Tiny--v1.0", {"config.json": b"{}"}, repo_id="Org/Tiny", revision="v1.0", commit=OLD)
    carry(models, "Org--Tiny--refs_pr_1", {"a": b"a"}, repo_id="Org/Tiny", revision="refs/pr/1", commit="a" * 40)
    carry(models, "org--parts", {"w.bin": WEIGHTS}, repo_id="org/parts", limits=IN_PARTS)
    carry(models, "org--quantized", QUANTIZED, repo_id="org/quantized")
    carry(models, "one", {"config.json": b"{}"}, repo_id="one")
    carry(models, "old--name", {"config.json": b"{}"}, repo_id="old/name", renamed_to="New/Name")
    carry(models, "a--same", {"config.json": b"{}"}, repo_id="a/same")
    carry(models, "A--Same", {"config.json": b"{}"}, repo_id="A/Same")
    carry(models, "B--Case", {"config.json": b"{}"}, repo_id="B/Case")
    carry(models, "b--CASE", {"config.json": b"{}"}, repo_id="b/CASE")
    carry(models, "org--tagged", {"a": b"main"}, repo_id="org/tagged")
    carry(models, "org--tagged--latest", {"a": b"old"}, repo_id="org/tagged", revision="latest", commit=OLD)
    carry(datasets, "org--set", {"data/train.csv": b"a,b\n", "README.md": b"#"}, repo_id="org/set", repo_type="dataset")
    with serving(folder, f"oci:{folder}") as hub:
        yield hub


def manifest(hub: Serving, name: str, reference: str = "latest") -> dict[str, Any]:
    answer = hub.get(f"/v2/{name}/manifests/{reference}", Accept=ACCEPT)
    assert answer.status == 200, answer.body
    value: dict[str, Any] = json.loads(answer.body)
    return value


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def pulled(hub: Serving, name: str, value: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of an artifact; check that each blob has the digest and size of its descriptor."""
    found = {}
    for layer in [*value["layers"], value["config"]]:
        blob = hub.get(f"/v2/{name}/blobs/{layer['digest']}")
        assert (blob.status, digest_of(blob.body), len(blob.body)) == (200, layer["digest"], layer["size"])
        if "annotations" in layer:
            found[layer["annotations"]["org.cncf.model.filepath"]] = blob.body
    return found


def errors(answer: Answer) -> list[str]:
    """Return the codes of an error in the form of the spec."""
    assert answer.headers["content-type"] == "application/json"
    return [error["code"] for error in json.loads(answer.body)["errors"] if error["message"]]


def test_every_file_is_a_raw_layer(hub: Serving):
    value = manifest(hub, "org/tiny")
    assert value["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert (value["schemaVersion"], value["mediaType"]) == (2, ACCEPT)
    assert value["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert pulled(hub, "org/tiny", value) == MODEL
    types = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in value["layers"]}
    kinds = {
        "README.md": "doc",
        "config.json": "weight.config",
        "model.safetensors": "weight",
        "sub dir/run.py": "code",
    }
    assert {path: types[path] for path in kinds} == {
        path: f"application/vnd.cncf.model.{kind}.v1.raw" for path, kind in kinds.items()
    }
    for layer in value["layers"]:
        annotations = layer["annotations"]
        path = annotations["org.cncf.model.filepath"]
        # oras takes the name from here.
        assert annotations["org.opencontainers.image.title"] == path
        assert annotations["org.cncf.model.file.mediatype.untested"] == "true"
        assert json.loads(annotations["org.cncf.model.file.metadata+json"]) == {
            "name": path.rpartition("/")[2],
            "mode": 0o644,
            "uid": 0,
            "gid": 0,
            "size": len(MODEL[path]),
            "mtime": "2024-05-06T07:08:09Z",
            "typeflag": 0,
        }


def test_the_config_describes_the_model(hub: Serving):
    value = manifest(hub, "Org/Tiny")
    config = json.loads(hub.get(f"/v2/Org/Tiny/blobs/{value['config']['digest']}").body)
    assert (
        config["descriptor"].items()
        >= {
            "createdAt": "2024-05-06T07:08:09Z",
            "vendor": "Org",
            "name": "Tiny",
            "title": "Org/Tiny",
            "sourceURL": "https://huggingface.co/Org/Tiny",
            "revision": COMMIT,
            "licenses": ["MIT"],
        }.items()
    )
    assert config["config"] == {
        "architecture": "qwen2",
        "format": "safetensors",
        "precision": "bfloat16",
        "quantization": "awq",
    }
    assert config["modelfs"] == {"type": "layers", "diffIds": [layer["digest"] for layer in value["layers"]]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"model.safetensors": safetensors({"w": ("BF16", [70, 1000])})},
            {"format": "safetensors", "paramSize": "70.0K"},
        ),
        (
            {
                "config.json": b'{"quantization_config": {"quant_method": "gptq", "bits": 4}}',
                "model.safetensors": safetensors({"a.qweight": ("I32", [100, 100]), "a.scales": ("F16", [9, 9])}),
            },
            {"format": "safetensors", "quantization": "gptq", "paramSize": "80.0K"},
        ),
        ({"config.json": b"[]", "model.onnx": b"?"}, {"format": "onnx"}),
        (
            {"config.json": b'{"model_type": 5, "torch_dtype": "half"}', "a.bin": b""},
            {"format": "pt", "precision": "float16"},
        ),
        ({"config.json": b"{", "model.safetensors": b"x", "m.gguf": b"GGUF"}, {"format": "gguf"}),
        ({"notes.txt": b"?"}, {}),
    ],
    ids=["parameters", "packed", "onnx", "odd-config", "broken", "nothing"],
)
def test_a_config_has_only_what_the_files_say(tmp_path: Path, files: Mapping[str, bytes], expected: Mapping[str, str]):
    carry(Layout(tmp_path), "org--odd", files, repo_id="org/odd")
    index = open_repo_index(
        f"oci:{tmp_path}", Namespace.parse(f"oci:{tmp_path}"), Registries(Client(), print), 1, print
    )
    index.refresh()
    artifacts = Artifacts(index, FactsIndex(index))
    artifact = artifacts.by_tag(artifacts.find("model", "org/odd"), "latest")
    [config] = artifact.blobs.values()
    assert json.loads(config)["config"] == expected


def test_the_facade_and_the_hubs_api_agree_about_each_file(served_registry: Serving, served_layout: Serving):
    for hub in (served_registry, served_layout):
        for name in ("org/model", "org/parts", "gpt2", "datasets/org/set"):
            kind, repo_id = ("datasets", name[9:]) if name.startswith("datasets/") else ("models", name)
            tree = json.loads(hub.get(f"/api/{kind}/{repo_id}/tree/main?recursive=true").body)
            files = {item["path"]: item for item in tree if item["type"] == "file"}
            value = manifest(hub, name)
            found = pulled(hub, name, value)
            assert found.keys() == files.keys()
            for layer in value["layers"]:
                path = layer["annotations"]["org.cncf.model.filepath"]
                assert layer["size"] == files[path]["size"]
                if "lfs" in files[path]:
                    assert layer["digest"] == f"sha256:{files[path]['lfs']['oid']}"
                assert hub.get(f"/{name}/resolve/main/{quote(path)}").body == found[path]


def test_digests_are_reproducible(served_registry: Serving, served_layout: Serving, tmp_path: Path):
    digests = {
        hub.ask(method, f"/v2/org/model/manifests/{tag}").headers["docker-content-digest"]
        for hub in (served_registry, served_layout)
        for tag in ("latest", "main", COMMIT)
        for method in ("GET", "HEAD")
    }
    assert len(digests) == 1
    assert served_layout.get("/v2/org/model/manifests/v1.0").headers["docker-content-digest"] not in digests
    carry(Layout(tmp_path / "models"), "org--model", FILES)
    with serving(tmp_path, f"oci:{tmp_path}") as other:
        # By digest first: another replica may have answered the request for the tag.
        for digest in digests:
            answer = other.get(f"/v2/org/model/manifests/{digest}")
            assert digest_of(answer.body) == digest


def test_the_bytes_of_a_manifest_depend_on_the_repo_only():
    revision = repo("model", "org/tiny", 4).shown
    files = [IndexedFile("config.json", 2, "a" * 40, "b" * 64, ()), IndexedFile("w.bin", 2, "c" * 64, "c" * 64, ())]
    artifact = model_pack(revision, files, ModelFacts(architecture="bert", parameters=109_482_240))
    # Clients compare digests: if this one changes, CHANGELOG.md must say that all do.
    assert artifact.digest == "sha256:9859d6096fbc05812f70cf1370a71416a4f20e1d536c77a2ad72a703d9f0eefe"
    local = model_pack(replace(revision, created=None), files, ModelFacts())
    assert b"huggingface.co" not in local.manifest.data + b"".join(local.blobs.values())
    assert b"1970-01-01T00:00:00Z" in local.manifest.data


def test_a_manifest_has_the_headers_of_a_registry(hub: Serving):
    for method in ("GET", "HEAD"):
        answer = hub.ask(method, "/v2/org/tiny/manifests/latest")
        body = hub.get("/v2/org/tiny/manifests/latest").body
        assert (
            answer.headers.items()
            >= {
                "content-type": ACCEPT,
                "content-length": str(len(body)),
                "docker-content-digest": digest_of(body),
                "docker-distribution-api-version": "registry/2.0",
            }.items()
        )
        assert answer.body == (body if method == "GET" else b"")


def test_a_blob_has_ranges_and_its_location(hub: Serving):
    digest = digest_of(WEIGHTS)
    for name in ("Org/Tiny", "org/parts"):
        target = f"/v2/{name}/blobs/{digest}"
        head = hub.ask("HEAD", target)
        assert (
            head.headers.items()
            >= {
                "content-length": str(len(WEIGHTS)),
                "content-type": "application/octet-stream",
                "docker-content-digest": digest,
                "accept-ranges": "bytes",
                "location": target,
            }.items()
        )
        for start, stop in ((0, 1), (900_000, 1_100_000), (990_000, 3_000_001), (len(WEIGHTS) - 5, len(WEIGHTS))):
            answer = hub.get(target, Range=f"bytes={start}-{stop - 1}")
            assert (answer.status, answer.body) == (206, WEIGHTS[start:stop])
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(WEIGHTS)}"
        beyond = hub.get(target, Range=f"bytes={len(WEIGHTS)}-")
        assert (beyond.status, errors(beyond)) == (416, ["RANGE_INVALID"])
    config = manifest(hub, "org/tiny")["config"]["digest"]
    whole = hub.get(f"/v2/org/tiny/blobs/{config}").body
    part = hub.get(f"/v2/org/tiny/blobs/{config}", Range="bytes=2-9")
    assert (part.status, part.body, part.headers["content-range"]) == (206, whole[2:10], f"bytes 2-9/{len(whole)}")


def test_the_tag_of_a_quantization_leaves_the_others_out(hub: Serving):
    for tag in ("Q8_0", "q8_0", "m-q8_0.gguf"):
        value = manifest(hub, "org/quantized", tag)
        assert pulled(hub, "org/quantized", value).keys() == {"README.md", "m-Q8_0.gguf", "mmproj-F16.gguf"}
        config = json.loads(hub.get(f"/v2/org/quantized/blobs/{value['config']['digest']}").body)["config"]
        assert config == {"architecture": "llama", "format": "gguf", "paramSize": "7.0K", "quantization": "Q8_0"}
    assert pulled(hub, "org/quantized", manifest(hub, "org/quantized")).keys() == QUANTIZED.keys()


def test_more_files_than_a_manifest_can_list_are_refused(tmp_path: Path):
    models = Layout(tmp_path / "models")
    quantized = {"m-Q4_0.gguf": b"GGUF1", "m-Q8_0.gguf": b"GGUF2"}
    index = carry(models, "org--many", {"0.json": b"{}", **quantized}, repo_id="org/many")
    first, *others = index.files
    many = [replace(first, path=f"{number:05}.json") for number in range(10_500)]
    layer = first.ranges[0].layer
    size = (models.folder / "blobs/sha256" / layer.hex).stat().st_size
    put_image(models, "org--many", replace(index, files=(*many, *others)), [Descriptor(LAYER_TAR, layer, size)])
    with serving(tmp_path, f"oci:{tmp_path}") as hub:
        for tag in ("latest", "Q8_0"):
            answer = hub.get(f"/v2/org/many/manifests/{tag}")
            assert (answer.status, errors(answer)) == (501, ["UNSUPPORTED"])
            assert b"too many" in answer.body
        assert json.loads(hub.get("/v2/org/many/tags/list").body)["tags"] == ["latest", "main"]
        # ollama needs only one of them.
        docker = "application/vnd.docker.distribution.manifest.v2+json"
        assert hub.get("/v2/org/many/manifests/Q8_0", Accept=docker).status == 200
        assert hub.get(f"/v2/org/many/blobs/{digest_of(b'GGUF2')}").body == b"GGUF2"
        assert hub.get(f"/v2/org/many/blobs/{digest_of(b'?')}").status == 404


def test_a_dataset_is_an_artifact_below_datasets(hub: Serving):
    value = manifest(hub, "datasets/org/set", "main")
    types = [layer["mediaType"] for layer in value["layers"]]
    assert types == ["application/vnd.cncf.model.doc.v1.raw", "application/vnd.cncf.model.dataset.v1.raw"]
    assert pulled(hub, "datasets/org/set", value)["data/train.csv"] == b"a,b\n"


def test_tags_and_names_are_listed_in_pages(hub: Serving):
    tags = ["latest", "main", "refs_pr_1", "v1.0"]
    assert json.loads(hub.get("/v2/org/tiny/tags/list").body) == {"name": "org/tiny", "tags": tags}
    assert json.loads(hub.get("/v2/org/quantized/tags/list").body)["tags"] == ["Q4_K_M", "Q8_0", "latest", "main"]
    found, target = [], "/v2/org/tiny/tags/list?n=3"
    while target:
        answer = hub.get(target)
        found += json.loads(answer.body)["tags"]
        target = answer.headers.get("link", "").partition(">")[0][1:]
    assert found == tags
    assert json.loads(hub.get("/v2/org/tiny/tags/list?n=0").body)["tags"] == []
    names = json.loads(hub.get("/v2/_catalog").body)["repositories"]
    models = ["org/parts", "org/quantized", "org/tagged", "org/tiny"]
    # B/Case and b/CASE have no name in lower case.
    assert names == ["a/same", "datasets/org/set", "old/name", "one", *models]
    assert {hub.get(f"/v2/{name}/tags/list").status for name in names} == {200}
    for tag in tags:
        assert hub.get(f"/v2/org/tiny/manifests/{tag}").status == 200


def test_names_of_one_segment_and_of_any_case(hub: Serving):
    assert hub.get("/v2/one/manifests/latest").status == 200
    assert hub.get("/v2/ORG/tiny/manifests/latest").status == 200
    # The Hub has renamed this one.
    assert hub.get("/v2/new/name/manifests/latest").status == hub.get("/v2/old/name/manifests/latest").status == 200
    # Two repos differ by case only: each has its own name, and another spelling is ambiguous.
    assert hub.get("/v2/A/Same/manifests/latest").status == hub.get("/v2/a/same/manifests/latest").status == 200
    answer = hub.get("/v2/a/Same/manifests/latest")
    assert (answer.status, errors(answer)) == (404, ["NAME_UNKNOWN"])
    assert b"A/Same, a/same" in answer.body


def test_a_revision_named_latest_is_the_tag_latest(hub: Serving):
    assert pulled(hub, "org/tagged", manifest(hub, "org/tagged", "latest")) == {"a": b"old"}
    assert pulled(hub, "org/tagged", manifest(hub, "org/tagged", "main")) == {"a": b"main"}
    assert json.loads(hub.get("/v2/org/tagged/tags/list").body)["tags"] == ["latest", "main"]


@pytest.mark.parametrize("query", ["n=abc", "n=-1", "n=1.5", "n=%D9%A3"])
def test_an_invalid_number_of_names_is_refused(hub: Serving, query: str):
    for target in ("/v2/_catalog", "/v2/org/tiny/tags/list"):
        answer = hub.get(f"{target}?{query}")
        assert (answer.status, errors(answer)) == (400, ["PAGINATION_NUMBER_INVALID"])


def test_an_unchanged_blob_is_not_sent_again(hub: Serving):
    value = manifest(hub, "org/tiny")
    for digest in (value["config"]["digest"], value["layers"][0]["digest"]):
        target = f"/v2/org/tiny/blobs/{digest}"
        answer = hub.get(target, If_None_Match=f'"{digest}"')
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", f'"{digest}"')
        assert hub.get(target, If_None_Match='"other"').status == 200


def test_nothing_refers_to_a_manifest(hub: Serving):
    answer = hub.get(f"/v2/org/tiny/referrers/{digest_of(b'')}")
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert json.loads(answer.body)["manifests"] == []


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/org/other/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/org/other/tags/list", 404, "NAME_UNKNOWN"),
        (f"/v2/org/other/blobs/{digest_of(MODEL['README.md'])}", 404, "NAME_UNKNOWN"),
        ("/v2/datasets/org/tiny/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/org/tiny/manifests/v9", 404, "MANIFEST_UNKNOWN"),
        ("/v2/org/tiny/manifests/Q4_K_M", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/org/tiny/manifests/{digest_of(b'nothing')}", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/org/tiny/blobs/{digest_of(b'nothing')}", 404, "BLOB_UNKNOWN"),
        # A file of another repo.
        (f"/v2/org/quantized/blobs/{digest_of(MODEL['README.md'])}", 404, "BLOB_UNKNOWN"),
        ("/v2/org/tiny/blobs/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/org/tiny/manifests/sha512:0", 400, "DIGEST_INVALID"),
        ("/v2/org/tiny/blobs/..%2f..%2fetc%2fpasswd", 400, "DIGEST_INVALID"),
        ("/v2/org/tiny", 404, "NAME_UNKNOWN"),
        ("/v2/a/b/c/manifests/latest", 404, "NAME_UNKNOWN"),
    ],
)
def test_errors_have_the_form_of_the_spec(hub: Serving, target: str, status: int, code: str):
    for headers in ({}, {"Accept": "text/html"}):
        answer = hub.ask("GET", target, headers)
        assert (answer.status, errors(answer)) == (status, [code])
    assert hub.ask("HEAD", target).status == status


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v2/org/tiny/blobs/uploads/"),
        ("PUT", "/v2/org/tiny/manifests/latest"),
        ("DELETE", f"/v2/org/tiny/manifests/{digest_of(b'')}"),
        ("PATCH", "/v2/org/new/blobs/uploads/x"),
        ("POST", "/v2/"),
    ],
)
def test_writes_are_unsupported(hub: Serving, method: str, target: str):
    answer = hub.ask(method, target, body=b"{}")
    assert (answer.status, errors(answer)) == (405, ["UNSUPPORTED"])
    assert answer.headers["allow"] == "GET, HEAD"


def test_a_token_is_a_password_or_a_bearer_token(tmp_path: Path):
    carry(Layout(tmp_path / "models"), "org--model", {"config.json": b"{}"})
    (tmp_path / "token").write_text("secret\n")
    basic = base64.b64encode(b"anyone:secret").decode()
    with serving(tmp_path, f"oci:{tmp_path}", "--token-file", tmp_path / "token") as hub:
        for target in ("/v2/", "/v2/org/model/manifests/latest", f"/v2/org/model/blobs/{digest_of(b'{}')}"):
            for header in ({}, {"Authorization": "Bearer wrong"}):
                answer = hub.ask("GET", target, header)
                assert (answer.status, errors(answer)) == (401, ["UNAUTHORIZED"])
                assert answer.headers["www-authenticate"] == 'Basic realm="llmstack hub"'
                assert b"secret" not in answer.body
            for accepted in (f"Basic {basic}", "Bearer secret"):
                assert hub.get(target, Authorization=accepted).status == 200


def test_images_that_have_no_hashes_or_no_ranges_are_refused(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    foreign = layers.image(
        tmp_path / "foreign", layers.tar(layers.folder("REPO"), layers.file("REPO/m-Q8_0.gguf", b"G"))
    )
    push(foreign, f"{namespace}/models:org--foreign", "--preserve-digests")
    carry(Layout(tmp_path / "carried"), "org--copied", {"w.bin": os.urandom(500_000)}, repo_id="org/copied")
    push(f"oci:{tmp_path}/carried:org--copied", f"{namespace}/models:org--copied", "--dest-compress")
    carry(repository(namespace), "org--good", {"a": b"a"}, repo_id="org/good")
    with serving(tmp_path, namespace) as hub:
        for name in ("copied", "foreign"):
            assert json.loads(hub.get(f"/v2/org/{name}/tags/list").body)["tags"] == []
            for tag in ("latest", "Q8_0"):
                for accept in (ACCEPT, "application/vnd.docker.distribution.manifest.v2+json"):
                    answer = hub.get(f"/v2/org/{name}/manifests/{tag}", Accept=accept)
                    assert (answer.status, errors(answer)) == (501, ["UNSUPPORTED"])
                    assert b"llmstack extract" in answer.body
        assert hub.get("/v2/org/good/manifests/latest").status == 200
