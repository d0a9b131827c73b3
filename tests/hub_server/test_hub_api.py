"""The Hub's API beyond what the Python clients use: JSON bodies, raw files, other IDs, other origins, git."""

from __future__ import annotations

import hashlib
import json
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from llmstack.oci.layout import Layout
from tests.hub_server.conftest import FILES, HTML, OLD, WEIGHTS
from tests.support.carried import COMMIT, carry
from tests.support.process import need
from tests.support.serving import Serving, serving

pytestmark = pytest.mark.xdist_group("serving")

JSON = {"Content-Type": "application/json"}
INFO = "/api/models/org/model/paths-info/main"


@pytest.fixture(scope="module")
def served_cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A hub with IDs that differ by case only."""
    folder = tmp_path_factory.mktemp("cases")
    models = Layout(folder / "models")
    for repo_id in ("Org/Model", "two/Same", "Two/same", "gpt2"):
        carry(models, repo_id.replace("/", "--"), {"config.json": repo_id.encode()}, repo_id=repo_id)
    carry(models, "old--name", {"a": b"old"}, repo_id="old/name", renamed_to="New/name")
    carry(models, "was--kept", {"a": b"former"}, repo_id="was/kept", renamed_to="is/Kept")
    carry(models, "is--Kept", {"a": b"current"}, repo_id="is/Kept")
    carry(Layout(folder / "datasets"), "org--set", {"a.csv": b"a"}, repo_id="org/set", repo_type="dataset")
    with serving(folder / "logs", f"oci:{folder}") as hub:
        yield hub


def test_a_repo_carried_under_an_id_comes_before_one_renamed_to_it(served_cases: Serving):
    assert served_cases.ask("GET", "/is/Kept/resolve/main/a").body == b"current"
    moved = served_cases.ask("GET", "/api/models/is/kept")
    assert (moved.status, moved.headers["location"]) == (307, "/api/models/is/Kept")


def test_paths_of_a_json_body(served_layout: Serving):
    body = json.dumps({"paths": ["config.json", "sub dir", "nothing"], "expand": True}).encode()
    for sent in (JSON, {"Content-Type": "application/json; charset=utf-8"}):
        found = json.loads(served_layout.ask("POST", INFO, sent, body).body)
        assert [(item["path"], item["type"]) for item in found] == [("config.json", "file"), ("sub dir", "directory")]
        assert [item["lastCommit"]["id"] for item in found] == [COMMIT, COMMIT]
    form = served_layout.ask("POST", INFO, {}, b"paths=config.json&expand=True")
    assert json.loads(form.body)[0] == found[0]
    # The Python client sends this for an empty list.
    assert json.loads(served_layout.ask("POST", INFO, {}, b"expand=False").body) == []


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", None])
def test_json_is_known_by_its_content(served_layout: Serving, content_type: str | None):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = served_layout.ask("POST", INFO, headers, b' {"paths": ["config.json"]}')
    assert [item["path"] for item in json.loads(answer.body)] == ["config.json"]


MULTIPART = b'--x\r\nContent-Disposition: form-data; name="paths"\r\n\r\nconfig.json\r\n--x--\r\n'


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"paths": [1]}', b'{"paths": {"a": 1}}', b"[" * 100_000, b"\xff", b'{"paths": null}'),
        *(b'{"paths": ["a"], "expand": "true"}', b'{"paths": ["a"], "path": "b"}', MULTIPART),
        *(b"paths[]=config.json", b"path=config.json", b"paths=config.json&expand=yes", b"paths=config.json&other=1"),
    ],
)
def test_a_body_without_paths_gets_400(served_layout: Serving, body: bytes):
    for headers in (JSON, {}, {"Content-Type": "multipart/form-data; boundary=x"}):
        answer = served_layout.ask("POST", INFO, headers, body)
        assert (answer.status, answer.headers["x-error-code"]) == (400, "BadRequest")
        assert "paths" in answer.headers["x-error-message"]


def test_the_revision_head_is_main(served_layout: Serving):
    assert served_layout.get("/org/model/resolve/HEAD/config.json").headers["x-repo-commit"] == COMMIT
    for target in ("/api/models/org/model/revision/HEAD", "/api/models/org/model?revision=HEAD"):
        assert json.loads(served_layout.get(target).body)["sha"] == COMMIT
    assert json.loads(served_layout.get("/api/models/org/model?revision=v1.0").body)["sha"] == OLD


def test_the_refs_of_a_repo_are_revisions(served_layout: Serving):
    found = json.loads(served_layout.get("/api/models/org/model/refs").body)
    named = {ref["ref"]: ref["targetCommit"] for ref in [*found["branches"], *found["tags"]]}
    assert named == {"refs/heads/main": COMMIT, "refs/tags/v1.0": OLD}
    for ref, commit in named.items():
        for name in (ref, quote(ref, safe="")):
            assert json.loads(served_layout.get(f"/api/models/org/model/revision/{name}").body)["sha"] == commit
            assert served_layout.get(f"/org/model/resolve/{name}/config.json").headers["x-repo-commit"] == commit
    for name in ("refs/tags/v2", "refs/heads/", "refs/heads/" * 1000):
        unknown = served_layout.get(f"/org/model/resolve/{quote(name, safe='')}/config.json")
        assert (unknown.status, unknown.headers["x-error-code"]) == (404, "RevisionNotFound")


def test_a_raw_file_is_the_pointer_of_an_lfs_file(served_layout: Serving):
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(WEIGHTS).hexdigest()}\n"
        f"size {len(WEIGHTS)}\n"
    ).encode()
    target = "/org/model/raw/main/model.safetensors"
    answer = served_layout.get(target)
    oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
    assert (answer.status, answer.body, answer.headers["etag"]) == (200, pointer, f'"{oid}"')
    head = served_layout.ask("HEAD", target)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(pointer)))
    part = served_layout.get(target, Range="bytes=0-6")
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"version", f"bytes 0-6/{len(pointer)}")
    assert served_layout.get(target, If_None_Match=f'"{oid}"').status == 304
    assert served_layout.get(target, Range="bytes=999-").status == 416
    for path in ("config.json", "empty.txt", "sub dir/a+b%2Fé.json"):
        assert served_layout.get(f"/org/model/raw/main/{quote(path)}").body == FILES[path]
    assert served_layout.get("/org/model/raw/main/other").headers["x-error-code"] == "EntryNotFound"


def test_a_download_is_an_attachment(served_layout: Serving):
    for verb in ("resolve", "raw"):
        answer = served_layout.get(f"/org/model/{verb}/main/config.json?download=true")
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''config.json"


def test_a_repo_has_one_commit_and_no_discussions(served_layout: Serving):
    commits = served_layout.get("/api/models/org/model/commits/main?limit=1")
    assert (commits.headers["x-total-count"], [item["id"] for item in json.loads(commits.body)]) == ("1", [COMMIT])
    assert json.loads(served_layout.get("/api/models/org/model/commits/main?p=1").body) == []
    found = json.loads(served_layout.get("/api/datasets/org/set/discussions?p=0").body)
    assert (found["discussions"], found["count"]) == ([], 0)
    assert served_layout.get("/api/models/org/other/discussions").status == 404


def test_refs_have_pull_requests_if_asked_for(served_layout: Serving):
    pull = {"name": "1", "ref": "refs/pr/1", "targetCommit": OLD}
    assert json.loads(served_layout.get("/api/models/gpt2/refs?include_prs=1").body)["pullRequests"] == [pull]
    assert json.loads(served_layout.get("/api/models/org/model/refs?include_prs=True").body)["pullRequests"] == []
    assert "pullRequests" not in json.loads(served_layout.get("/api/models/gpt2/refs").body)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/org/model/resolve/main/config.json?download=true", "/Org/Model/resolve/main/config.json?download=true"),
        ("/api/models/ORG/MODEL/revision/main?blobs=true", "/api/models/Org/Model/revision/main?blobs=true"),
        ("/api/models/org%2Fmodel/tree/main/a%2Fb", "/api/models/Org/Model/tree/main/a%2Fb"),
        ("/api/datasets/Org/Set", "/api/datasets/org/set"),
        ("/datasets/ORG/set/tree/main", "/datasets/org/set/tree/main"),
        ("/GPT2/raw/main/config.json?%0d%0aX:", "/gpt2/raw/main/config.json?%0d%0aX:"),
        ("//org/model/", "/Org/Model"),
        ("/New/name/resolve/main/a", "/old/name/resolve/main/a"),
        ("/api/models/new/name", "/api/models/old/name"),
    ],
)
def test_another_id_of_a_repo_is_redirected(served_cases: Serving, target: str, location: str):
    for method in ("GET", "HEAD"):
        answer = served_cases.ask(method, target)
        assert (answer.status, answer.headers["location"]) == (307, location)


def test_an_id_that_several_repos_have_in_other_case(served_cases: Serving):
    answer = served_cases.get("/api/models/TWO/SAME")
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RepoNotFound")
    assert answer.headers["x-error-message"].endswith("one of: Two/same, two/Same")
    assert served_cases.get("/two/Same/resolve/main/config.json").body == b"two/Same"


def test_the_page_of_an_owner_lists_their_repos(served_cases: Serving):
    page = served_cases.get("/org", **HTML).body.decode()
    assert [f'href="/{path}"' in page for path in ("Org/Model", "datasets/org/set", "two/Same")] == [True, True, False]
    assert 'href="/Org/Model"' not in served_cases.get("/datasets/org", **HTML).body.decode()
    assert served_cases.get("/nobody", **HTML).status == 404
    assert served_cases.get("/org/resolve/main/config.json").headers["x-error-code"] == "RepoNotFound"


def test_a_page_of_another_origin_may_read(served_layout: Serving):
    for target in ("/org/model/resolve/main/config.json", "/api/models/org/other", "/nothing/at/all"):
        headers = served_layout.get(target, Origin="http://app.example").headers
        assert headers["access-control-allow-origin"] == headers["access-control-expose-headers"] == "*"
        # With credentials, browsers would send what a person has typed on a page of the hub.
        assert "access-control-allow-credentials" not in headers


def test_a_preflight_request_needs_no_token(tmp_path: Path, served_layout: Serving):
    (tmp_path / "token").write_text("secret")
    source = served_layout.output.split("serving ")[1].split(" at ")[0]
    with serving(tmp_path, source, "--token-file", tmp_path / "token") as hub:
        asked = {"Origin": "http://app.example", "Access-Control-Request-Method": "GET"}
        for target in ("/org/model/resolve/main/config.json", "/nothing"):
            answer = hub.ask("OPTIONS", target, asked)
            assert (answer.status, answer.body) == (204, b"")
            assert "Authorization" in answer.headers["access-control-allow-headers"]
            assert answer.headers["access-control-allow-methods"] == "GET, HEAD, POST"
        denied = hub.get("/org/model/resolve/main/config.json")
        assert (denied.status, denied.headers["access-control-allow-origin"]) == (401, "*")
        for target in ("/org/MODEL", "/org/model/raw/main/config.json", "/api/models/org/model/discussions", "/org"):
            assert hub.get(target).status == 401


def test_a_token_is_a_bearer_token_or_either_half_of_basic(tmp_path: Path, served_layout: Serving):
    (tmp_path / "token").write_text("secret")
    source = served_layout.output.split("serving ")[1].split(" at ")[0]
    with serving(tmp_path, source, "--token-file", tmp_path / "token") as hub:
        basic = {
            pair: f"Basic {b64encode(pair.encode()).decode()}" for pair in ("secret:", "secret", "x:secret", ":secret")
        }
        for header in ("Bearer secret", *basic.values()):
            assert hub.get("/api/models", Authorization=header).status == 200
        for pair in ("", ":", "x:y", "secret:x", "x:"):
            answer = hub.get("/api/models", Authorization=f"Basic {b64encode(pair.encode()).decode()}")
            assert (answer.status, answer.headers["x-error-code"]) == (401, "Unauthorized")
        # Clients take this code for a missing repo.
        for target, code in (("/api/models/org/model", "RepoNotFound"), ("/api/whoami-v2", "Unauthorized")):
            assert hub.get(target).headers["x-error-code"] == code


@pytest.mark.system
def test_git_shows_what_to_run_instead(served_layout: Serving, tmp_path: Path):
    run = f"remote: this hub has no git; run: HF_ENDPOINT={served_layout.url} hf download"
    for path, words in (
        ("org/model", f"{run} org/model --local-dir model"),
        ("ORG/Model", f"{run} org/model --local-dir model"),
        ("datasets/org/set.git", f"{run} org/set --repo-type dataset"),
        ("org/other", f"repository '{served_layout.url}/org/other/' not found"),
    ):
        command = [need("git", "git"), "clone", f"{served_layout.url}/{path}", str(tmp_path / "clone")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 128
        assert words in done.stderr


def test_git_without_the_token_does_not_learn_which_repos_exist(tmp_path: Path, served_layout: Serving):
    (tmp_path / "token").write_text("secret")
    source = served_layout.output.split("serving ")[1].split(" at ")[0]
    with serving(tmp_path, source, "--token-file", tmp_path / "token") as hub:
        answers = [hub.get(f"/{repo_id}/info/refs?service=git-upload-pack") for repo_id in ("org/model", "org/other")]
        assert [answer.status for answer in answers] == [501, 501]
        assert f"HF_ENDPOINT={hub.url} HF_TOKEN=YOUR-TOKEN hf download org/model " in answers[0].body.decode()
        assert hub.get("/org/other/info/refs", Authorization="Bearer secret").status == 404


@pytest.mark.system
@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("curl", ["curl", "--silent", "--show-error", "--fail", "--location", "--remote-name", "--continue-at", "-"]),
        ("wget", ["wget", "--quiet", "--continue"]),
        (
            "aria2",
            ["aria2c", "--quiet", "--continue", "--split=8", "--min-split-size=1M", "--max-connection-per-server=8"],
        ),
    ],
)
def test_downloaders_resume_in_ranges(served_layout: Serving, tmp_path: Path, program: str, command: list[str]):
    part = tmp_path / "model.safetensors"
    if program != "aria2":
        part.write_bytes(WEIGHTS[:1_000_000])
    for name in ("model.safetensors", "empty.txt"):
        url = f"{served_layout.url}/ORG/Model/resolve/main/{name}"
        subprocess.run([need(command[0], program), *command[1:], url], cwd=tmp_path, check=True)
    assert part.read_bytes() == WEIGHTS
    assert (tmp_path / "empty.txt").read_bytes() == b""
