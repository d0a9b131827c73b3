"""File responses: headers, ranges, conditions and errors."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from urllib.parse import urlencode

import pytest

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.image import open_image
from llmstack.hub_server.hub_api import paths_info, tree
from llmstack.hub_server.repos import Files
from llmstack.oci.layout import Layout
from tests.hub_server.conftest import FILES, HTML, IN_PARTS, OLD, WEIGHTS
from tests.hub_server.test_pages import repo
from tests.support.carried import COMMIT, LIMITS, carry
from tests.support.serving import Serving, serving, sparse_repo

pytestmark = pytest.mark.xdist_group("serving")

W = "/org/model/resolve/main/model.safetensors"
ETAG = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
SIZE = len(WEIGHTS)


def test_the_headers_of_a_large_file(served_registry: Serving):
    for method, body in (("HEAD", b""), ("GET", WEIGHTS)):
        answer = served_registry.ask(method, W, {"Accept-Encoding": "gzip"})
        assert answer.body == body
        assert answer.status == 200
        expected = {
            "x-repo-commit": COMMIT,
            "etag": ETAG,
            "x-linked-etag": ETAG,
            "x-linked-size": str(SIZE),
            "content-length": str(SIZE),
            "accept-ranges": "bytes",
            "content-type": "application/octet-stream",
            "x-content-type-options": "nosniff",
        }
        assert answer.headers.items() >= expected.items()
        assert not [name for name in answer.headers if "xet" in name]
        assert "content-encoding" not in answer.headers


def test_a_small_file_has_its_git_hash_and_a_text_type(served_registry: Serving):
    data = FILES["config.json"]
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    answer = served_registry.get("/org/model/resolve/main/config.json")
    assert answer.headers["etag"] == f'"{oid}"'
    assert answer.headers["content-type"].startswith("text/plain")
    # Foreign HTML must not run with the hub's origin.
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=1000-1999999", 1000, 2_000_000),
        (f"bytes=5-{10**30}", 5, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-10", SIZE - 10, SIZE),
        (f"bytes=-{SIZE + 5}", 0, SIZE),
    ],
)
def test_a_range_returns_its_bytes(served_registry: Serving, served_layout: Serving, asked: str, start: int, stop: int):
    for hub in (served_registry, served_layout):
        answer = hub.get(W, Range=asked)
        assert answer.body == WEIGHTS[start:stop]
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert answer.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-6", "bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=1-2-3", "٣", f"bytes={'9' * 5000}-"],
)
def test_an_invalid_range_returns_the_complete_file(served_layout: Serving, asked: str):
    answer = served_layout.ask("HEAD", W, {"Range": asked.encode().decode("latin-1")})
    assert (answer.status, answer.headers["content-length"]) == (200, str(SIZE))


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={10**25}-", "bytes=-0"])
def test_a_range_beyond_the_end_gets_416(served_layout: Serving, asked: str):
    answer = served_layout.get(W, Range=asked)
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{SIZE}")


def test_conditional_requests(served_layout: Serving):
    for condition in (ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"):
        answer = served_layout.get(W, If_None_Match=condition)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", ETAG)
    assert served_layout.ask("HEAD", W, {"If-None-Match": '"other"'}).status == 200
    assert served_layout.get(W, If_Range=ETAG, Range="bytes=0-3").body == WEIGHTS[:4]
    assert served_layout.get(W, If_Range='"other"', Range="bytes=0-3").status == 200


def test_a_split_file(served_registry: Serving, served_layout: Serving):
    """Each part is a little smaller than a million bytes, and in its own layer."""
    for hub in (served_registry, served_layout):
        answer = hub.get("/org/parts/resolve/main/w.bin")
        assert (answer.headers["etag"], answer.body) == (ETAG, WEIGHTS)
        for start, stop in ((900_000, 1_100_000), (990_000, 3_000_001), (SIZE - 5, SIZE), (2_500_000, 2_500_001)):
            answer = hub.get("/org/parts/resolve/main/w.bin", Range=f"bytes={start}-{stop - 1}")
            assert answer.body == WEIGHTS[start:stop]


def test_an_empty_file(served_registry: Serving):
    answer = served_registry.get("/org/model/resolve/main/empty.txt")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    # huggingface.js asks for the first byte of each file, and reads the size from the header.
    for asked in ("bytes=0-0", "bytes=0-"):
        answer = served_registry.get("/org/model/resolve/main/empty.txt", Range=asked)
        assert (answer.status, answer.body, answer.headers["content-range"]) == (200, b"", "bytes */0")
    assert served_registry.get("/org/model/resolve/main/empty.txt", Range="bytes=1-").status == 416


def test_revisions_and_ids(served_layout: Serving):
    for revision in ("main", COMMIT):
        assert served_layout.get(f"/org/model/resolve/{revision}/config.json").headers["x-repo-commit"] == COMMIT
    for revision in ("v1.0", OLD):
        assert served_layout.get(f"/org/model/resolve/{revision}/config.json").headers["x-repo-commit"] == OLD
    assert served_layout.get("/gpt2/resolve/main/config.json").body == b'{"n": 2}'
    assert served_layout.get("/datasets/org/set/resolve/main/data/train.csv").body == b"a,b\n1,2\n"
    assert served_layout.get("/org/model/resolve/main/sub%20dir/a%2Bb%252F%C3%A9.json").body == b"[1]"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/org/other/resolve/main/config.json", "RepoNotFound"),
        ("/datasets/org/model/resolve/main/config.json", "RepoNotFound"),
        ("/org/model/resolve/v2/config.json", "RevisionNotFound"),
        ("/gpt2/resolve/v1.0/config.json", "RevisionNotFound"),
        ("/org/model/resolve/main/other.json", "EntryNotFound"),
        ("/org/model/resolve/main/sub%20dir", "EntryNotFound"),
        ("/org/model/resolve/main/../../../etc/passwd", "EntryNotFound"),
        ("/api/models/org/other", "RepoNotFound"),
        ("/api/models/org/model/revision/v2", "RevisionNotFound"),
        ("/api/models/org/model/tree/main/nowhere", "EntryNotFound"),
        ("/api/spaces/org/model", "NotFound"),
    ],
)
def test_errors_have_the_hubs_codes(served_layout: Serving, target: str, code: str):
    for method in ("GET", "HEAD"):
        answer = served_layout.ask(method, target)
        assert (answer.status, answer.headers["x-error-code"]) == (404, code)
        assert answer.headers["x-error-message"]
        assert method == "HEAD" or json.loads(answer.body)["error"] == answer.headers["x-error-message"]
        # With the commit, clients cache the miss.
        assert (answer.headers.get("x-repo-commit") == COMMIT) == (code == "EntryNotFound")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/api/repos/create"),
        ("POST", "/api/models/org/model/commit/main"),
        ("PUT", W),
        ("DELETE", "/api/repos/delete"),
        ("POST", "/org/model.git/info/lfs/objects/batch"),
        ("GET", "/api/models/org/model/paths-info/main"),
    ],
)
def test_the_hub_is_read_only(served_layout: Serving, method: str, target: str):
    answer = served_layout.ask(method, target, body=b"{}" if method != "GET" else b"")
    assert (answer.status, answer.headers["x-error-code"]) == (405, "ReadOnly")
    assert "read-only" in json.loads(answer.body)["error"]
    assert answer.headers["allow"] in {"GET, HEAD", "POST"}


def test_trees_and_lists_are_paged(served_layout: Serving):
    target = "/api/models/org/model/tree/main?recursive=true&limit=3"
    behind_tls = served_layout.ask("GET", target, {"X-Forwarded-Proto": "https", "Host": "hub.lab"})
    assert behind_tls.headers["link"].startswith("<https://hub.lab/api/models/org/model/tree/main?")
    first = served_layout.get(target)
    assert [item["path"] for item in json.loads(first.body)] == ["README.md", "config.json", "empty.txt"]
    paths, link = [], first.headers["link"]
    while link:
        target = link.partition(served_layout.url)[2].partition(">")[0]
        answer = served_layout.get(target)
        paths += [item["path"] for item in json.loads(answer.body)]
        link = answer.headers.get("link", "")
    deep = ["sub dir", "sub dir/a+b%2Fé.json", "sub dir/deep", "sub dir/deep/more.txt"]
    assert paths == ["model.safetensors", *deep]
    assert len(json.loads(served_layout.get("/api/models?limit=1").body)) == 1


def test_paths_info_describes_files_and_folders(served_layout: Serving):
    target = "/api/models/org/model/paths-info/main"
    asked = ["sub dir", "config.json", "sub", "sub dir/", "", "sub dir/deep", "nothing", "config.json", "config.json/a"]
    answer = served_layout.ask("POST", target, body=urlencode([("paths", path) for path in asked]).encode())
    found = [(item["type"], item["path"]) for item in json.loads(answer.body)]
    assert found == [("directory", "sub dir"), ("file", "config.json"), ("directory", "sub dir/deep")]
    answer = served_layout.ask("POST", target, body=b"paths=" + b"a" * 2 * 1024 * 1024)
    assert (answer.status, answer.headers["x-error-code"]) == (413, "TooLarge")


def test_many_unknown_paths_cost_little():
    names = [f"data/part-{number % 50}/file-{number}.json" for number in range(5000)]
    files = Files({name: IndexedFile(name, 0, "", "", ()) for name in names}, {})
    began = time.process_time()
    assert paths_info(files, [f"data/other-{number}" for number in range(10_000)]) == []
    assert [item["path"] for item in paths_info(files, ["data", "data/part-7", "data/part"])] == ["data", "data/part-7"]
    assert time.process_time() - began < 2


def test_the_cost_of_a_tree_depends_on_the_files_returned():
    """One path has 30,000 directories, whose paths together have 900 MB; one directory has 200,000 files."""
    deep = "/".join(["d"] * 30_000) + "/f"
    names = [deep, *(f"many/{number:06}" for number in range(200_000))]
    files = Files({name: IndexedFile(name, 0, "0" * 40, "", ()) for name in names}, {})
    revision = repo("model", "org/model", 0).shown
    tracemalloc.start()
    began = time.process_time()
    first = [item["path"] for item in islice(tree(revision, files, "", recursive=True), 3)]
    assert first == ["d", "d/d", "d/d/d"]
    assert [item["path"] for item in tree(revision, files, "", recursive=False)] == ["d", "many"]
    assert [item["path"] for item in tree(revision, files, deep[:5], recursive=False)] == ["d/d/d/d"]
    assert [item["path"] for item in islice(tree(revision, files, "many", recursive=True), 2)] == names[1:3]
    assert [item["path"] for item in paths_info(files, ["d/d", deep[:59_999], "d/e", "many"])] == [
        "d/d",
        deep[:59_999],
        "many",
    ]
    assert time.process_time() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    tracemalloc.stop()


def test_a_file_of_more_than_50_gb(tmp_path):
    """Clients refuse such a file if HEAD returns its length, so HEAD omits it."""
    folder, size = tmp_path / "carried", 60 * 1000**3
    sparse_repo(Layout(folder / "models"), "org--big", size, b"last")
    with serving(tmp_path, f"oci:{folder}") as hub:
        answer = hub.ask("HEAD", "/org/big/resolve/main/big.bin")
        assert answer.status == 200
        assert answer.headers["x-linked-etag"] == f'"{"cd" * 32}"'
        assert not {"content-length", "x-linked-size"} & answer.headers.keys()
        with hub.open("/org/big/resolve/main/big.bin") as response:
            assert response.headers["Content-Length"] == str(size)
        assert hub.get("/org/big/resolve/main/big.bin", Range="bytes=-6").body == b"\0\0last"


DAMAGED = {"README.md": b"---\nlicense: mit\n---\n# Before", "config.json": b'{"a": 1}', "w.bin": WEIGHTS}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub of a layout in which the last byte of each file has changed."""
    folder = tmp_path_factory.mktemp("damaged")
    for tag, limits in (("org--model", LIMITS), ("org--parts", IN_PARTS)):
        models = Layout(folder / "models")
        index = carry(models, tag, DAMAGED, repo_id=tag.replace("--", "/"), limits=limits)
        diff_ids = open_image(models, tag).config.diff_ids
        blobs = dict(zip(diff_ids, open_image(models, tag).manifest.layers, strict=True))
        for file in index.files:
            last = file.ranges[-1]
            blob = models.folder / "blobs/sha256" / blobs[last.layer].digest.hex
            blob.chmod(0o644)
            with blob.open("r+b") as raw:
                raw.seek(last.offset + last.size - 1)
                raw.write(b"\xff" if DAMAGED[file.path][-1:] != b"\xff" else b"\x00")
    with serving(tmp_path_factory.mktemp("hub"), f"oci:{folder}") as hub:
        yield hub


@pytest.mark.parametrize("repo_id", ["org/model", "org/parts"])
def test_a_file_that_does_not_match_its_hash_is_not_sent_completely(damaged: Serving, repo_id: str):
    target = f"/{repo_id}/resolve/main/w.bin"
    with damaged.open(target) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(SIZE))
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
    assert WEIGHTS.startswith(broken.value.partial)
    assert damaged.ask("HEAD", target).status == 200
    # A range cannot be compared.
    assert damaged.get(target, Range="bytes=0-99").body == WEIGHTS[:100]
    assert len(damaged.get(target, Range="bytes=0-").body) == SIZE


@pytest.mark.parametrize("path", ["config.json", "README.md"])
def test_a_small_file_that_does_not_match_its_hash_is_a_bad_gateway(damaged: Serving, path: str):
    answer = damaged.get(f"/org/model/resolve/main/{path}")
    assert (answer.status, answer.headers["x-error-code"]) == (502, "BadGateway")
    message = f"models:org--model: '{path}' does not match its sha256 in the file index"
    assert answer.headers["x-error-message"].endswith(message)


def test_a_model_card_that_does_not_match_its_hash_is_not_used(damaged: Serving):
    assert json.loads(damaged.get("/api/models/org/model").body)["cardData"] == {}
    assert b"Before" not in damaged.ask("GET", "/org/model", HTML).body
