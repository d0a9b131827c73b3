"""Any request below `/v2/` gets a valid answer; moved tags and damaged layers."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.oci.layout import Layout
from tests.hub_server.conftest import OLD, WEIGHTS
from tests.hub_server.registry_api.test_model_pack import digest_of
from tests.hub_server.test_routes import raw
from tests.support.carried import carry
from tests.support.ollama import ACCEPT
from tests.support.serving import Serving, serving, sparse_repo
from tests.support.weight_files import gguf

pytestmark = pytest.mark.xdist_group("serving")

DIGEST = digest_of(WEIGHTS)
WORDS = [
    "v2",
    "org",
    "model",
    "gpt2",
    "datasets",
    "set",
    "manifests",
    "blobs",
    "tags",
    "list",
    "latest",
    "main",
    "v1.0",
]
WORDS += [DIGEST, DIGEST[:-1], f"sha256%3A{DIGEST[7:]}", "sha256:", "_catalog", "referrers", "uploads", "Q4_K_M"]
NASTY = ["..", ".", "", "%2e%2e", "%2F", "%00", "%0d%0aX-Evil:%201", "%ff", "\\", "é", "#", ";", "~", "a:b"]
ANY = st.text(max_size=8).map(lambda text: quote(text, safe="%"))
SEGMENT = st.one_of(st.sampled_from(WORDS), st.sampled_from(NASTY), ANY)
STARTS = ["", "/org/model/manifests", "/org/model/blobs", "/ORG/Parts/blobs", "/gpt2/tags", "/datasets/org/set"]
PATH = st.builds(
    lambda start, parts: f"/v2{start}/{'/'.join(parts)}", st.sampled_from(STARTS), st.lists(SEGMENT, max_size=5)
)
QUERY = st.sampled_from(["", "n=1", "n=0&last=%ff", "n=-1", "n=9999999999", "last=main", "n=%D9%A3", "scope=a"])
HEADERS = st.dictionaries(
    st.sampled_from(["Accept", "Range", "If-Range", "Authorization", "User-Agent", "Location"]),
    st.one_of(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
        st.sampled_from([ACCEPT, "llama-cpp", "text/html", "bytes=0-0", "bytes=-1", f"bytes={'9' * 30}-"]),
    ),
    max_size=3,
)
METHOD = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"])
STATUSES = {200, 206, 400, 404, 405, 416}


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METHOD, PATH, QUERY, HEADERS, st.binary(max_size=30))
def test_any_request_gets_a_valid_answer(
    served_layout: Serving, method: str, path: str, query: str, headers: dict[str, str], body: bytes
):
    sent = {**headers, "Host": "hub", "Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{method} {path}?{query} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    status, answered, content = raw(served_layout, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    assert status in STATUSES
    named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in answered)}
    # h11 answers what is no HTTP at all.
    if named.get("content-type", "").startswith("text/plain"):
        assert status == 400
        return
    assert "x-evil" not in named
    assert named["docker-distribution-api-version"] == "registry/2.0"
    if status >= 400 and method != "HEAD":
        assert all(error["code"] and error["message"] for error in json.loads(content)["errors"])


def test_a_pull_can_finish_after_its_tag_has_moved(tmp_path: Path):
    models = Layout(tmp_path / "models")
    old = {"m-Q8_0.gguf": gguf({}, {"w": [5000]}, seed=1), "config.json": b'{"model_type": "llama"}'}
    carry(models, "org--model", old, commit=OLD)
    with serving(tmp_path, f"oci:{tmp_path}", env={"LLMSTACK_HUB_REFRESH": "1"}) as hub:
        targets = "/v2/org/model/manifests/latest", f"/v2/org/model/manifests/{OLD}"
        started = [hub.get(targets[0]), hub.get(targets[0], Accept=ACCEPT)]
        carry(models, "org--model", {"m-Q8_0.gguf": gguf({}, {"w": [6000]}, seed=2)}, commit="a" * 40)
        hub.daemon.wait_until(lambda: hub.get(targets[0]).body != started[0].body)
        assert hub.get(targets[1]).body == started[0].body
        for answer in started:
            digest = answer.headers["docker-content-digest"]
            assert hub.get(f"/v2/org/model/manifests/{digest}").body == answer.body
            value = json.loads(answer.body)
            for layer in [*value["layers"], value["config"]]:
                assert digest_of(hub.get(f"/v2/org/model/blobs/{layer['digest']}").body) == layer["digest"]


def test_a_damaged_file_is_not_sent_completely(tmp_path: Path):
    models = Layout(tmp_path / "models")
    index = carry(models, "org--model", {"model.safetensors": WEIGHTS})
    [part] = index.files[0].ranges
    with (models.folder / "blobs/sha256" / part.layer.hex).open("r+b") as layer:
        layer.seek(part.offset + 5)
        layer.write(b"?")
    with serving(tmp_path, f"oci:{tmp_path}") as hub, hub.open(f"/v2/org/model/blobs/{DIGEST}") as response:
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        hub.daemon.wait_until(lambda: "broken off" in hub.output)
        assert "does not match its sha256" in hub.output


def test_the_length_of_a_huge_file_is_known(tmp_path: Path):
    """ollama splits a download by it; below /resolve/, huggingface_hub must not see it."""
    size = 60 * 1000**3
    sparse_repo(Layout(tmp_path / "models"), "org--big", size, b"end")
    target = f"/v2/org/big/blobs/sha256:{'cd' * 32}"
    with serving(tmp_path, f"oci:{tmp_path}") as hub:
        assert hub.ask("HEAD", target).headers["content-length"] == str(size)
        assert hub.get(target, Range=f"bytes={size - 3}-{size - 1}").body == b"end"
        [layer] = json.loads(hub.get("/v2/org/big/manifests/latest").body)["layers"]
        assert layer["size"] == size
