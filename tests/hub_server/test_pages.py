"""The pages over HTTP: the list of repos, repo pages, errors and security headers."""

from __future__ import annotations

import hashlib
import html
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl

import pytest

import llmstack.hub_server.pages
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.pages import repo_list
from llmstack.hub_server.pages.page_routes import TEXTS, choose_language
from llmstack.hub_server.pages.repo_page import ENTRIES
from llmstack.hub_server.repo_facts import Facts, facts_of
from llmstack.hub_server.repos import Repo, Revision, make_repo
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from tests.hub_server.conftest import FILES, HTML, OLD, WEIGHTS
from tests.support.carried import COMMIT, carry
from tests.support.cli import run_llmstack
from tests.support.engine import Engine
from tests.support.registry import Registry
from tests.support.serving import Door, Serving, repository, serving

TEMPLATES = Path(llmstack.hub_server.pages.__file__).parent / "templates"


def repo(repo_type: RepoType, repo_id: str, size: int, created: str = "2024-05-06T07:08:09+00:00") -> Repo:
    digest = Digest("sha256:" + "0" * 64)
    reader = Layout(Path("nowhere"))
    revision = Revision(
        repo_type, repo_id, "main", COMMIT, f"models:{repo_id}", digest, size, 1, "mit", False, created, False, reader
    )
    return make_repo(repo_type, repo_id, [revision])


REPOS = [
    *(repo("model", f"many/m{number:02}", 2) for number in range(100)),
    repo("model", "Org/large", 5000, "2023-01-01T00:00:00Z"),
    repo("dataset", "org/set", 3, "2025-01-01T00:00:00Z"),
]


def shown(default: RepoType | None = None, **query: str) -> list[str]:
    return [row.repo.repo_id for row in listed(REPOS, default, "", query)["rows"]]


def listed(
    repos: list[Repo],
    default: RepoType | None = None,
    author: str = "",
    query: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return a list whose facts are not in memory."""
    return repo_list.values(repos, default, author, query, lambda _: None)


# Three models and a dataset; of the last model, nothing is known yet.
CARDS: Mapping[str, dict[str, Any]] = {
    "a/chat": {"pipeline_tag": "text-generation", "library_name": "transformers", "language": ["en", False]},
    "a/plain": {"license": ["mit", "Apache-2.0"], "tags": ["Chat"]},
    "b/new": {},
    "b/set": {"task_categories": ["text-generation"], "language": "en"},
}
FILTERED = [
    repo("model", "a/chat", 3 * 1000**3),
    repo("model", "a/plain", 5),
    repo("model", "b/new", 10**12),
    repo("dataset", "b/set", 10**9),
]


def facts_in_memory(revision: Revision) -> Facts | None:
    if revision.repo_id == "b/new":
        return None
    return facts_of(revision.repo_type, CARDS[revision.repo_id], {}, (), "mit")


@pytest.mark.parametrize(
    ("query", "found", "hidden"),
    [
        ({}, "a/chat a/plain b/new b/set", {}),
        ({"task": "text-generation"}, "a/chat b/set", {"task": 2}),
        ({"task": "-"}, "a/plain b/new", {}),
        ({"task": "text-generation", "type": "model"}, "a/chat", {"task": 2}),
        ({"task": "text-generation", "language": "no"}, "a/chat", {}),
        ({"license": "Apache-2.0"}, "a/plain", {}),
        ({"license": "mit", "library": "transformers"}, "a/chat", {"library": 3}),
        ({"size": "1GB"}, "a/plain b/set", {}),
        ({"size": "more"}, "b/new", {}),
        ({"search": "chat"}, "a/chat a/plain", {}),
        ({"search": "TEXT-generation"}, "a/chat b/set", {}),
        ({"task": "none"}, "", {"task": 2}),
    ],
)
def test_filters_do_not_hide_what_is_unknown(query: dict[str, str], found: str, hidden: dict[str, int]):
    values = repo_list.values(FILTERED, None, "", query, facts_in_memory)
    assert [row.repo.repo_id for row in values["rows"]] == found.split()
    assert {name: count for name, count, _ in values["hidden"]} == hidden
    for name, count, url in values["hidden"]:
        fields = dict(parse_qsl(url.removeprefix("?")))
        assert fields[name] == "-"
        assert repo_list.values(FILTERED, None, "", fields, facts_in_memory)["count"] == count


def test_a_filter_counts_what_each_value_shows():
    for chosen in ({}, {"language": "en"}, {"task": "-", "size": "1GB"}):
        options = repo_list.values(FILTERED, None, "", chosen, facts_in_memory)["options"]
        assert list(options) == ["task", "library", "license", "language", "size"]
        for name, found in options.items():
            for value, count in found:
                query = {**chosen, name: value}
                assert repo_list.values(FILTERED, None, "", query, facts_in_memory)["count"] == count, query


def test_search_and_sort():
    assert shown(search="ORG") == ["Org/large", "org/set"]
    assert shown(search="large org") == ["Org/large"]
    assert shown(search="org", type="dataset") == shown("dataset") == ["org/set"]
    assert shown("dataset", type="model", search="org") == ["Org/large"]
    assert shown(search="org", sort="size") == ["Org/large", "org/set"]
    assert shown(sort="size")[:2] == ["Org/large", "org/set"]
    assert [shown(sort="newest")[0], shown(sort="newest", page="2")[-1]] == ["org/set", "Org/large"]
    assert shown()[:2] == ["many/m00", "many/m01"]
    assert shown(search="nothing") == []


def test_the_page_of_an_owner_has_renamed_repos():
    renamed = make_repo("model", "old/name", [replace(repo("model", "old/name", 1).shown, renamed_to="New/Name")])
    for owner in ("new", "old"):
        assert [row.repo for row in listed([*REPOS, renamed], author=owner)["rows"]] == [renamed]


def test_pages_of_the_repo_list():
    first, second = (listed(REPOS, query={"sort": "newest"}), listed(REPOS, query={"page": "2"}))
    assert (first["count"], first["last"], len(first["rows"])) == (102, 2, 100)
    assert (first["previous_url"], first["next_url"]) == (None, "?search=&type=all&sort=newest&page=2")
    assert (second["next_url"], len(second["rows"])) == (None, 2)
    assert not set(shown()) & set(shown(page="2"))
    assert shown(page="99") == shown(page="2")
    assert shown(page="-1") == shown(page="x") == shown()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("de", "en"),
        ("zh", "zh"),
        ("zh-TW,en;q=0.5", "zh"),
        ("de, ZH-hans-cn;q=0.7, en;q=0.3", "zh"),
        ("zh;q=0.3,en-GB;q=0.8", "en"),
        ("zh;q=0", "en"),
        ("zh;q=much,*", "en"),
    ],
)
def test_the_language_follows_accept_language(header: str, language: str):
    assert choose_language(header) == language


def test_every_language_has_every_text():
    used = {key for path in TEMPLATES.iterdir() for key in re.findall(r"""\bt\(["'](\w+)["'][,)]""", path.read_text())}
    for texts in TEXTS.values():
        assert texts.keys() == TEXTS["en"].keys()
        assert used <= texts.keys()
        for key, text in texts.items():
            assert sorted(re.findall(r"{\w+}", text)) == sorted(re.findall(r"{\w+}", TEXTS["en"][key]))


def test_a_repo_page_has_facts_snippets_and_readme(served_registry: Serving):
    page = served_registry.ask("GET", "/org/model", HTML).body.decode()
    for fact in (COMMIT, "3.1 MB", "mit", "feature-extraction", "transformers", "2024-05-06", "models:org--model<"):
        assert fact in page
    assert '<h2 id="readme-a-model">A model</h2>' in page
    old = served_registry.ask("GET", "/org/model/tree/v1.0", HTML).body.decode()
    assert OLD in old
    assert "HF_TOKEN" not in old
    asked = served_registry.ask("GET", "/org/model", {"Authorization": "Basic eDp5"}).body.decode()
    assert "export HF_TOKEN=YOUR-TOKEN\n" in asked
    assert "--revision v1.0" in old
    assert "README" not in old
    assert "load_dataset(&#34;org/set&#34;)" in served_registry.ask("GET", "/datasets/org/set", HTML).body.decode()


def test_a_model_page_shows_how_to_serve_it(served_registry: Serving):
    """The manifest is that of `llmstack serve --print kubernetes`; what no server can serve is mounted by a pod."""
    page = html.unescape(served_registry.ask("GET", "/org/model", HTML).body.decode())
    shown = {name: text.partition("<code>")[2].partition("</code>")[0] for name, text in snippet_parts(page).items()}
    command = shlex.split(shown["serve"])
    assert command[:3] == ["llmstack", "serve", "org/model"]
    done = run_llmstack(*command[1:], "--print", "kubernetes")
    assert (done.code, done.stdout) == (0, shown["kubernetes_serve"]), done.stderr
    dataset = html.unescape(served_registry.ask("GET", "/datasets/org/set", HTML).body.decode())
    assert "serve" not in snippet_parts(dataset)
    assert "YOUR-IMAGE" not in page + dataset


def test_files_can_be_copied_out_of_an_image_without_a_shell(
    served_registry: Serving, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = html.unescape(served_registry.ask("GET", "/gpt2", HTML).body.decode())
    script = snippet_parts(page)["docker"].partition("<code>")[2].partition("</code>")[0]
    monkeypatch.chdir(tmp_path)
    for line in script.splitlines():
        engine.docker(*shlex.split(line)[1:])
    assert (tmp_path / "gpt2/config.json").read_bytes() == b'{"n": 2}'


def snippet_parts(page: str) -> dict[str, str]:
    return {part.partition('"')[0]: part for part in page.split('id="use-')[1:]}


@pytest.mark.parametrize("host", ["a.lab/b", "a$(x)", 'a"><script>', "q z", "[::1", "x@y"])
def test_an_invalid_host_is_not_shown(host: str, served_layout: Serving):
    for path in ("/", "/models", "/datasets/org/set"):
        assert served_layout.ask("GET", path, {"Host": host}).status == 200
    page = served_layout.ask("GET", "/org/model", {"Host": host}).body.decode()
    assert "HF_ENDPOINT=http://HOST:PORT\n" in page
    assert host not in page


def test_the_url_behind_a_tls_proxy(served_layout: Serving):
    """The snippets use the host of the browser and the scheme of the proxy."""
    for said, scheme in (("https", "https"), ("http", "http"), ("gopher", "http"), ("https'$(x)", "http")):
        asked = {**HTML, "Host": "hub.lab", "X-Forwarded-Proto": said}
        page = served_layout.ask("GET", "/org/model", asked).body.decode()
        assert f"HF_ENDPOINT={scheme}://hub.lab\n" in page


def test_folders_and_files(served_layout: Serving):
    root = served_layout.ask("GET", "/org/model/tree/main").body.decode()
    assert '<a href="/org/model/blob/main/config.json">config.json</a>' in root
    assert (
        f'<a href="/org/model/resolve/{COMMIT}/config.json?download=true" aria-label="Download: config.json">' in root
    )
    assert '<a href="/org/model/tree/main/sub%20dir">sub dir/</a>' in root
    folder = served_layout.ask("GET", "/org/model/tree/main/sub%20dir/").body.decode()
    assert '<a href="/org/model/blob/main/sub%20dir/a%2Bb%252F%C3%A9.json">a+b%2Fé.json</a>' in folder
    assert "config.json" not in folder
    for verb in ("tree", "blob"):
        answer = served_layout.ask("GET", f"/org/model/{verb}/main/config.json")
        assert (answer.status, answer.headers["location"]) == (307, f"/org/model/resolve/{COMMIT}/config.json")
    browsed = served_layout.ask("GET", "/org/model/tree/main/config.json", HTML)
    assert (browsed.status, browsed.headers["location"]) == (307, "/org/model/blob/main/config.json")
    assert served_layout.ask("GET", "/org/model/blob/main/sub%20dir", HTML).status == 200
    assert served_layout.ask("GET", "/org/model/blob/main/none", HTML).status == 404


def test_the_page_of_a_file(served_registry: Serving):
    page = served_registry.ask("GET", "/org/model/blob/main/config.json", HTML).body.decode()
    for text in (hashlib.sha256(FILES["config.json"]).hexdigest(), COMMIT, "&#34;model_type&#34;: &#34;bert&#34;"):
        assert text in page
    assert f'href="/org/model/resolve/{COMMIT}/config.json?download=true"' in page
    weights = served_registry.ask("GET", "/org/model/blob/main/model.safetensors", HTML).body.decode()
    assert hashlib.sha256(WEIGHTS).hexdigest() in weights
    assert "has no preview" in weights
    assert (
        "<td><bdi>1</bdi></td>"
        in served_registry.ask("GET", "/datasets/org/set/blob/main/data/train.csv", HTML).body.decode()
    )


def test_folders_are_paged(tmp_path: Path):
    files = {f"{number:04}": b"x" for number in range(ENTRIES + 1)}
    carry(Layout(tmp_path / "carried/models"), "org--many", files, repo_id="org/many")
    with serving(tmp_path, f"oci:{tmp_path}/carried") as hub:
        first, second = (hub.ask("GET", f"/org/many{query}", HTML).body.decode() for query in ("", "?page=2"))
    (onward,), (back,) = (re.findall(r'<a rel="(\w+)" href="([^"]+)"', page) for page in (first, second))
    assert (onward, back) == (("next", "?page=2#files"), ("prev", "?page=1#files"))
    assert ("Page 1 of 2" in first, "Page 2 of 2" in second) == (True, True)
    assert [len(re.findall("resolve/", page)) for page in (first, second)] == [ENTRIES, 1]
    assert len(first) < 200 * 1024


def test_the_push_snippet_copies_the_image_to_a_registry(served_layout: Serving, registry: Registry):
    text = html.unescape(served_layout.ask("GET", "/org/model/tree/v1.0", HTML).body.decode())
    command = re.search(r"skopeo copy .*", text.split('id="use-push"')[1])[0].partition("<")[0]
    target = f"{registry.host}/copied"
    subprocess.run([*shlex.split(command.replace("YOUR-REGISTRY", target)), "--dest-tls-verify=false"], check=True)
    assert repository(target).digest_of("org--model--v1.0")
    assert "use-docker" not in text


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/org/other", 404, "RepoNotFound"),
        ("/org/model/tree/v2", 404, "RevisionNotFound"),
        ("/org/model/tree/main/none", 404, "EntryNotFound"),
        ("/org/model/resolve/main/none", 404, "EntryNotFound"),
        ("/a/b/c/d", 404, "NotFound"),
    ],
)
def test_errors_are_pages_for_browsers_only(path: str, status: int, code: str, served_layout: Serving):
    for headers, media_type in ((HTML, "text/html"), ({"Accept": "*/*"}, "application/json"), ({}, "application/json")):
        answer = served_layout.ask("GET", path, headers)
        assert (answer.status, answer.headers["x-error-code"]) == (status, code)
        assert answer.headers["content-type"].startswith(media_type)
    assert (
        served_layout.ask("GET", "/api/models/org/other", HTML).headers["content-type"].startswith("application/json")
    )


def test_the_page_for_an_unavailable_registry(registry: Registry, tmp_path: Path):
    with Door(registry.host) as door:
        door.shut()
        with serving(tmp_path, f"{door.name}/away") as hub:
            answer = hub.ask("GET", "/", {**HTML, "Accept-Language": "zh"})
    assert (answer.status, answer.headers["content-language"]) == (503, "zh-Hans")
    assert int(answer.headers["retry-after"]) > 0
    assert TEXTS["zh"]["error_Unavailable"] in answer.body.decode()


def test_the_headers_of_pages_and_assets(served_layout: Serving):
    page = served_layout.ask("GET", "/", HTML)
    policy = page.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "img-src 'self'", "style-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert not [item for item in policy if "script" in item or "unsafe" in item]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    loaded = set(re.findall(r'(?:href|src)="(/-/[^"]+)"', page.body.decode()))
    assert len(loaded) == 2
    for path in loaded:
        answer = served_layout.get(path)
        assert answer.status == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"].startswith(("text/css", "image/svg+xml"))


def test_the_script_of_a_page_needs_a_secret(served_layout: Serving):
    """A page with snippets allows one script, by a nonce that is new in each response."""
    nonces = set()
    for _ in range(2):
        page = served_layout.ask("GET", "/org/model", HTML)
        (policy,) = [item for item in page.headers["content-security-policy"].split("; ") if "script" in item]
        (script,) = re.findall(r"<script [^>]*>", page.body.decode())
        nonce = re.search(r'nonce="([\w-]{16,})"', script)[1]
        assert policy == f"script-src 'nonce-{nonce}'"
        nonces.add(nonce)
    assert len(nonces) == 2
    answer = served_layout.get(re.search(r'src="([^"]+)"', script)[1])
    assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.html", "application/octet-stream"),
        ("a.xhtml", "application/octet-stream"),
        ("a.js", "application/octet-stream"),
        ("a.xml", "application/octet-stream"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("LICENSE", "text/plain; charset=utf-8"),
        ("a.png", "image/png"),
        ("a.svg", "image/svg+xml"),
    ],
)
def test_files_of_a_repo_are_not_served_as_html(name: str, media_type: str, served_pages: Serving):
    headers = served_pages.get(f"/bad/files/resolve/main/{name}").headers
    assert headers["content-type"] == media_type
    assert headers["x-content-type-options"] == "nosniff"
    assert {"default-src 'none'", "sandbox"} <= set(headers["content-security-policy"].split("; "))


def test_the_list_of_an_owner_has_the_repos_of_the_type_in_its_path(served_layout: Serving):
    found = {
        path: served_layout.ask("GET", path, HTML).body.decode() for path in ("/org", "/models/org", "/datasets/org")
    }
    listed = {path: ('href="/org/model"' in body, 'href="/datasets/org/set"' in body) for path, body in found.items()}
    assert listed == {"/org": (True, True), "/models/org": (True, False), "/datasets/org": (False, True)}
