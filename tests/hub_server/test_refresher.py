"""New images, moved tags, and a registry that is unavailable for a while."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest

from tests.hub_server.conftest import OLD
from tests.support.carried import COMMIT, carry
from tests.support.proxy import Proxy, Rule
from tests.support.registry import Registry
from tests.support.serving import SERVING, Door, Serving, repository, serving

PATH = "/org/model/resolve/main/config.json"


def test_new_images_and_moved_tags_appear_without_a_restart(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    models = repository(namespace)
    carry(models, "org--model", {"config.json": b"old"}, commit=OLD)
    with serving(tmp_path, namespace) as hub:
        assert hub.get(PATH).body == b"old"
        assert hub.get("/org/new/resolve/main/a").headers["x-error-code"] == "RepoNotFound"
        # A miss is cached for a while; another name is looked up at once.
        carry(models, "org--newer", {"a": b"1"}, repo_id="org/newer")
        assert hub.get("/org/newer/resolve/main/a").body == b"1"
        carry(models, "org--model", {"config.json": b"new"})
        answer = hub.get(f"/org/model/resolve/{COMMIT}/config.json")
        assert (answer.body, answer.headers["x-repo-commit"]) == (b"new", COMMIT)
        assert hub.get(PATH).body == b"new"
        # A client that started with the old commit can finish.
        assert hub.get(f"/org/model/resolve/{OLD}/config.json").body == b"old"


def test_a_refresh_reads_only_moved_tags(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    models = repository(namespace)
    for name in ("a", "b", "c"):
        carry(models, f"org--{name}", {"config.json": name.encode()}, repo_id=f"org/{name}")
    carry(models, "org--d--partial", {"config.json": b"{}"}, repo_id="org/d", incomplete=True)
    registry.served()
    with serving(tmp_path, namespace, env={"LLMSTACK_HUB_REFRESH": "1"}) as hub:
        assert [item["id"] for item in json.loads(hub.get("/api/models").body)] == ["org/a", "org/b", "org/c"]
        carry(models, "org--e", {"config.json": b"e"}, repo_id="org/e")
        while len(json.loads(hub.get("/api/models").body)) < 4:
            assert hub.daemon.alive
        # The refresh that found it may still be running.
        wait_for_refresh(hub)
        registry.served()
        wait_for_refresh(hub)
        served = [request for request in registry.served() if f"{namespace.partition('/')[2]}/" in request.target]
    assert {request.method for request in served} == {"HEAD", "GET"}
    assert all("tags/list" in request.target for request in served if request.method == "GET")


def wait_for_refresh(hub: Serving) -> None:
    """Wait until a refresh has ended."""
    before = hub.metric("refreshed_timestamp_seconds")
    while hub.metric("refreshed_timestamp_seconds") <= before:
        assert hub.daemon.alive


def test_an_unavailable_registry_gets_503_until_it_is_back(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    weights, where = bytes(100_000), "/org/model/resolve/main/w.bin"
    carry(repository(namespace), "org--model", {"config.json": b"{}", "w.bin": weights})
    with Door(registry.host) as door:
        door.shut()
        behind = namespace.replace(registry.host, door.name)
        with serving(tmp_path, behind, env={"LLMSTACK_HUB_REFRESH": "1"}) as hub:
            # The hub starts anyway, and says when to retry.
            for target in (PATH, "/api/models/org/model", "/api/models", "/healthz", "/"):
                answer = hub.get(target)
                assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            door.open()
            while hub.get("/healthz").status != 200:
                assert hub.daemon.alive
            assert hub.get(PATH).body == b"{}"
            door.shut()
            # Metadata and small files come from memory; other contents are unavailable.
            assert hub.ask("HEAD", where).status == 200
            assert hub.get(PATH).body == b"{}"
            assert json.loads(hub.get("/api/models/org/model").body)["sha"] == COMMIT
            answer = hub.get(where)
            assert (answer.status, answer.headers["x-error-code"]) == (503, "Unavailable")
            door.open()
            assert hub.get(where).body == weights


@pytest.mark.parametrize("status", [401, 403])
def test_known_repos_stay_while_access_is_denied(registry: Registry, tmp_path: Path, status: int):
    """The other repository is still refreshed."""
    namespace = registry.namespace()
    models = repository(namespace)
    carry(models, "org--model", {"config.json": b"{}"})
    carry(repository(namespace, "dataset"), "org--set", {"a.csv": b"a"}, repo_id="org/set", repo_type="dataset")
    with Proxy(registry.url) as proxy:
        behind = namespace.replace(registry.host, proxy.host)
        with serving(tmp_path, behind, env={"LLMSTACK_HUB_REFRESH": "1"}) as hub:
            proxy.rules = [Rule("GET", "/datasets/tags/list", times=None, status=status)]
            carry(models, "org--new", {"config.json": b"{}"}, repo_id="org/new")
            while len(json.loads(hub.get("/api/models").body)) < 2:
                assert hub.daemon.alive
            while "retrying, the known repos stay" not in hub.output:
                assert hub.daemon.alive
            assert hub.get("/datasets/org/set/resolve/main/a.csv").body == b"a"
            assert [item["id"] for item in json.loads(hub.get("/api/datasets").body)] == ["org/set"]
            proxy.rules = []
            while "listing works again" not in hub.output:
                assert hub.daemon.alive


def test_refreshing_survives_a_closed_stdout(registry: Registry):
    """Also after an error that it cannot print."""
    namespace = registry.namespace()
    models = repository(namespace)
    carry(models, "org--model", {"config.json": b"{}"})
    with Proxy(registry.url) as proxy:
        behind = namespace.replace(registry.host, proxy.host)
        env = {**os.environ, "LLMSTACK_HUB_REFRESH": "1", "LLMSTACK_RETRY_WAIT": "0.01"}
        command = [sys.executable, "-m", "llmstack", "hub", "--from", behind, "--listen", "127.0.0.1:0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True) as process:
            try:
                match = next(filter(None, map(SERVING.search, process.stdout or ())))
                if process.stdout:
                    process.stdout.close()
                # More than one refresh requests before it fails.
                proxy.rules = [away := Rule("GET", "/tags/list", times=7, status=503)]
                carry(models, "org--new", {"config.json": b"{}"}, repo_id="org/new")
                deadline = time.monotonic() + 30
                while b"org/new" not in urllib.request.urlopen(f"http://127.0.0.1:{match[3]}/api/models").read():
                    assert time.monotonic() < deadline
                assert away.fired == 7
            finally:
                process.terminate()


def test_known_repos_are_served_while_a_lookup_hangs(registry: Registry, tmp_path: Path):
    """There are more requests for unknown repos than threads."""
    namespace = registry.namespace()
    models = repository(namespace)
    carry(models, "org--model", {"config.json": b"{}"})
    missing = [f"/api/models/org/missing-{number}" for number in range(24)]
    with Proxy(registry.url) as proxy, ThreadPoolExecutor(len(missing)) as clients:
        behind = namespace.replace(registry.host, proxy.host)
        with serving(tmp_path, behind, env={"LLMSTACK_TIMEOUT": "3600"}) as hub:
            carry(models, "org--new", {"config.json": b"{}"}, repo_id="org/new")
            assert {answer.status for answer in clients.map(hub.get, ["/api/models/org/new"] * 8)} == {200}
            proxy.rules = [Rule(".*", "/manifests/org--missing", times=None, silent=True)]
            asked = [clients.submit(hub.get, target) for target in missing]
            # Only one waits for the registry.
            answers = [next(done).result() for done in [as_completed(asked, timeout=30)] for _ in missing[1:]]
            assert {(answer.status, answer.headers["retry-after"]) for answer in answers} == {(503, "5")}
            assert json.loads(hub.get("/api/models/org/model").body)["sha"] == COMMIT
            proxy.refuse()
            assert {answer.result().status for answer in asked} == {503}
            # The misses were not confirmed, so they are not cached.
            assert hub.get(missing[0]).status == 503
            proxy.rules = []
            proxy.accept()
            assert hub.get(missing[0]).headers["x-error-code"] == "RepoNotFound"


def test_the_hub_starts_while_the_registry_does_not_answer(tmp_path: Path):
    """Requests get 503 meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        behind = f"127.0.0.1:{silent.getsockname()[1]}/t"
        with serving(tmp_path, behind, env={"LLMSTACK_TIMEOUT": "3600"}) as hub:
            answer = hub.get("/healthz")
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert "not listed yet" in hub.get(PATH).headers["x-error-message"]


def test_a_missing_blob_is_a_bad_gateway(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    index = carry(repository(namespace), "org--model", {"lost.txt": b"lost"})
    with serving(tmp_path, namespace) as hub:
        registry.blob_file(index.files[0].layers[0]).unlink()
        answer = hub.get("/org/model/resolve/main/lost.txt")
        assert (answer.status, answer.headers["x-error-code"]) == (502, "BadGateway")
