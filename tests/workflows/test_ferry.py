"""The ferry workflow, run step by step against a Hub, a registry with authentication, and a git remote."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from llmstack.lists.catalogue import parse
from tests.support.engine import Engine
from tests.support.hub import Hub
from tests.support.registry import Registry
from tests.workflows.actions import BRANCH, Job, Machine, job, load
from tests.workflows.fork import Fork

COMMIT = "Commit the catalogue"
TOKEN = "ghs_an0ther-secret"
HF_TOKEN = "hf_an0ther-secret"


class FerryFork(Fork):
    """A fork, and the servers that its workflow uses."""

    def __init__(self, root: Path, folder: Path, hub: Hub, registry: Registry, environment: Mapping[str, str]) -> None:
        super().__init__(root, folder)
        self.hub, self.registry, self.folder = hub, registry, folder
        self.namespace = registry.namespace()
        self._workflow = load(root / ".github/workflows/ferry.yml")
        self._environment = environment
        self._machines = 0
        self.push(models="", datasets="")

    def push(self, **lists: str) -> None:
        """Edit the lists and push them on top of the newest main."""
        if (self.clone / ".git/refs/remotes/origin/main").exists():
            self.git("pull", "-q", "--rebase", "origin", "main")
        for name, text in lists.items():
            (self.clone / f"get_hf/to_get_{name}.txt").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-qm", "Edit the lists")
        self.git("push", "-q", "origin", "main")

    def start(self, shard: str = "1/1", **inputs: str) -> Job:
        """Return the ferry job on a fresh machine; `inputs` are those of a manual run."""
        return job(self._workflow, "ferry", self._context(inputs, shard), self._machine())

    def plan(self, **inputs: str) -> list[str]:
        planned = job(self._workflow, "plan", self._context(inputs, ""), self._machine()).run()
        assert not planned.failed, planned.log
        return list(json.loads(planned.machine.outputs()["shards"]))

    def rows(self, name: str = "models") -> dict[str, str]:
        """Return the rows of the remote's catalogue."""
        command = ["git", "show", f"{BRANCH}:get_hf/{name}.md"]
        return parse(subprocess.run(command, cwd=self.remote, check=True, capture_output=True, text=True).stdout)

    def _machine(self) -> Machine:
        self._machines += 1
        return Machine(self.folder / f"machine-{self._machines}", self.remote, self._environment)

    def _context(self, inputs: Mapping[str, str], shard: str) -> dict[str, str]:
        names = ("repo", "type", "revision", "include", "exclude", "prepare", "target")
        return {
            **{f"inputs.{name}": inputs.get(name, "") for name in names},
            "vars.LLMSTACK_NAMESPACE": self.namespace,
            "vars.LLMSTACK_MAX_LAYER": "1 MB",
            "vars.LLMSTACK_SPLIT_LARGE": "true",
            "github.repository": "Octocat/Forked",
            "github.token": TOKEN,
            "secrets.REGISTRY_USER": self.registry.user or "",
            "secrets.REGISTRY_TOKEN": self.registry.password or "",
            "secrets.HF_TOKEN": HF_TOKEN,
            "matrix.shard": shard,
        }


@pytest.fixture
def fork(
    hub: Hub,
    token_registry: Registry,
    engine: Engine,
    busybox_base: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> FerryFork:
    # A runner has no git identity.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    hub.add_token(HF_TOKEN)
    environment = {"DOCKER_HOST": engine.host, "LLMSTACK_BASE": f"oci:{busybox_base}:latest"}
    return FerryFork(pytestconfig.rootpath, tmp_path, hub, token_registry, environment)


def no_secret_in(run: Job, registry: Registry) -> bool:
    text = run.log + run.machine.summary.read_text()
    return not any(secret in text for secret in (TOKEN, HF_TOKEN, registry.password or ""))


def test_catalogue_rows_are_added_and_updated_and_a_failure_is_shown(fork: FerryFork):
    first = fork.hub.add_repo("org/first", {"config.json": b"{}"}, license="mit")
    fork.hub.add_repo("org/data", {"train.csv": b"a,b\n"}, repo_type="dataset")
    fork.push(models="# ours\norg/first\n", datasets="org/data\n")
    run = fork.start().run()
    assert not run.failed, run.log
    assert list(fork.rows()) == ["org/first"]
    assert list(fork.rows("datasets")) == ["org/data"]
    assert no_secret_in(run, fork.registry)
    assert fork.hub.log.all("/api/models/org/first*")[0].token == f"Bearer {HF_TOKEN}"

    # A row is added, one is updated, one entry fails, and another commit is pushed meanwhile.
    before = fork.rows()["org/first"]
    first.commit({"config.json": b'{"new": 1}'})
    # Too large for one layer of this registry.
    fork.hub.add_repo("org/second", {"model.gguf": bytes(1_200_000)})
    fork.push(models="# ours\norg/first\norg/missing\norg/second\n")
    run = fork.start().run(until=COMMIT)
    (fork.clone / "note.txt").write_text("meanwhile")
    fork.push()
    run.run()
    assert run.failed
    assert [step.code for step in run.done][-2:] == [1, 0]
    assert "::error file=get_hf/to_get_models.txt,line=3::org/missing: " in run.log
    rows = fork.rows()
    assert list(rows) == ["org/first", "org/second"]
    assert rows["org/first"] != before
    assert first.sha in rows["org/first"]
    summary = run.machine.summary.read_text()
    assert all(name in summary for name in ("| org/first |", "| org/missing |", "| org/second |", "| Repo | Commit |"))
    files = subprocess.run(["git", "ls-tree", "--name-only", BRANCH], cwd=fork.remote, capture_output=True, check=True)
    assert b"note.txt" in files.stdout
    assert no_secret_in(run, fork.registry)

    # Nothing changed: no commit.
    head = (fork.git("fetch", "-q", "origin"), fork.git("rev-parse", "origin/main"))[1]
    fork.hub.add_repo("org/missing", {"config.json": b"{}"})
    fork.push(models="org/first\n")
    run = fork.start().run()
    assert "The catalogue is unchanged." in run.log
    assert fork.git("rev-parse", "origin/main~1") == head


def test_parallel_jobs_lose_no_row(fork: FerryFork):
    names = [f"org/model-{number}" for number in range(6)]
    for name in names:
        fork.hub.add_repo(name, {"config.json": name.encode()})
    fork.push(models="\n".join(names))
    runs = [fork.start(f"{number}/2").run(until=COMMIT) for number in (1, 2)]
    assert not any(run.failed for run in runs)
    with ThreadPoolExecutor() as threads:
        list(threads.map(Job.run, runs))
    assert not any(run.failed for run in runs), "\n".join(run.log for run in runs)
    assert list(fork.rows()) == names


def test_manual_run(fork: FerryFork):
    repo = fork.hub.add_repo("org/data", {"a.csv": b"a", "b.csv": b"b", "c.txt": b"c"}, repo_type="dataset")
    repo.tags["v1"] = repo.sha
    inputs = {"repo": "org/data", "type": "dataset", "revision": "v1", "include": "*.csv *.json", "exclude": "b*"}
    inputs["prepare"] = "none"
    assert fork.plan(**inputs) == ["1/1"]
    namespace = fork.registry.namespace()
    run = fork.start(**inputs, target=namespace.upper().replace(fork.registry.host.upper(), fork.registry.host)).run()
    assert not run.failed, run.log
    assert list(fork.rows("datasets")) == ["org/data@v1"]
    assert f"{namespace}/datasets:org--data--v1" in fork.rows("datasets")["org/data@v1"]
    assert {entry.path.rpartition("/")[2] for entry in fork.hub.log.files()} == {"a.csv"}


def test_script_of_the_fork_prepares_the_lists(fork: FerryFork):
    for name in ("org/first", "org/second"):
        fork.hub.add_repo(name, {"config.json": b"{}"})
    # A script that cannot run: llmstack says so before it needs an image.
    (fork.clone / "get_hf/prepare.sh").write_text("#!/bin/sh\r\n", newline="")
    fork.push(models="org/first\norg/second --prepare none\n")
    run = fork.start().run()
    assert "org/first: --prepare" in run.log
    assert "has Windows line endings" in run.log
    assert list(fork.rows()) == ["org/second"]


def test_inputs_are_not_executed(fork: FerryFork):
    mark = fork.folder / "executed"
    evil = f"$(touch {mark}) `touch {mark}`; touch {mark} #"
    inputs = dict.fromkeys(("repo", "type", "revision", "include", "exclude", "prepare", "target"), evil)
    run = fork.start(**inputs).run()
    assert run.failed
    fork.plan(**inputs)
    assert not mark.exists()


def test_number_of_shards_grows_with_the_lists(fork: FerryFork):
    for count, shards in {1: 1, 10: 1, 11: 2, 95: 10, 1000: 20}.items():
        names = [f"org/model-{number}  # wanted" for number in range(count)]
        fork.push(models="# models\n\n" + "\n".join(names[: count // 2]), datasets="\n".join(names[count // 2 :]))
        assert fork.plan() == [f"{number}/{shards}" for number in range(1, shards + 1)]
    fork.push(models="# none\n", datasets="")
    assert fork.plan() == ["1/1"]


def workflows(pytestconfig: pytest.Config) -> list[Path]:
    return sorted((pytestconfig.rootpath / ".github/workflows").glob("*.yml"))


def test_workflow_has_minimal_triggers_and_permissions(pytestconfig: pytest.Config):
    workflow = load(pytestconfig.rootpath / ".github/workflows/ferry.yml")
    assert workflow["on"]["push"]["branches"] == ["main"]
    assert "get_hf/to_get_models.txt" in workflow["on"]["push"]["paths"]
    assert set(workflow["on"]) == {"push", "workflow_dispatch"}
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["plan"]["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["ferry"]["permissions"] == {"contents": "write", "packages": "write"}


@pytest.mark.parametrize("name", ["ferry", "images"])
def test_runs_wait_for_each_other(pytestconfig: pytest.Config, name: str):
    concurrency = load(pytestconfig.rootpath / f".github/workflows/{name}.yml")["concurrency"]
    assert (concurrency["cancel-in-progress"], concurrency["queue"]) == (False, "max")


def test_actions_are_pinned_by_commit(pytestconfig: pytest.Config):
    used = [
        step["uses"]
        for path in workflows(pytestconfig)
        for found in load(path)["jobs"].values()
        for step in found["steps"]
        if "uses" in step
    ]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name) for name in used)


def test_namespace_without_configuration_is_ghcr_io(fork: FerryFork):
    fork.namespace = ""
    assert fork.start().variables["NAMESPACE"] == "ghcr.io/Octocat/Forked"


def test_secret_goes_only_to_the_configured_registry(fork: FerryFork, registry: Registry):
    fork.hub.add_repo("org/model", {"config.json": b"{}"})
    registry.served()
    run = fork.start(repo="org/model", type="model", target=registry.namespace()).run()
    assert [(step.name, step.code) for step in run.done][-2:] == [("Log in to the registry", 1), (COMMIT, 0)]
    assert f"::error::target: {registry.host} is not the configured registry." in run.log
    assert fork.registry.host in run.log
    assert registry.served() == []


def test_destination_on_another_registry_needs_no_secret(fork: FerryFork, registry: Registry):
    fork.hub.add_repo("org/model", {"config.json": b"{}"})
    fork.registry = replace(fork.registry, user=None, password=None)
    run = fork.start(repo="org/model", type="model", target=registry.namespace()).run()
    assert not run.failed, run.log
    assert f"pushing to {registry.host} without credentials" in run.log
