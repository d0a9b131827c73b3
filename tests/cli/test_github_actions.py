"""Lists divided between machines, and the annotations for GitHub Actions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmstack.errors import UsageError
from llmstack.lists.wish_list import ListProblem, RepoRequest, Shard, WishList
from tests.support.ferry import Port

ENTRIES = tuple(
    RepoRequest(f"org/model-{number}", kind, revision)
    for number in range(40)
    for kind in ("model", "dataset")
    for revision in ("main", "v1")
)
PROBLEM = ListProblem("list.txt", 3, "wrong")


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_every_entry_is_in_one_shard_independent_of_other_entries(count):
    shards = [Shard(number, count) for number in range(1, count + 1)]
    full, shorter = WishList(ENTRIES, (PROBLEM,)), WishList(ENTRIES[::-3], ())
    parts = [shard.select(full) for shard in shards]
    assert sorted(map(repr, ENTRIES)) == sorted(repr(entry) for part in parts for entry in part.entries)
    assert [problem for part in parts for problem in part.problems] == [PROBLEM]
    assert max(len(part.entries) for part in parts) < 3 * len(ENTRIES) / count
    for shard, part in zip(shards, parts, strict=True):
        assert set(shard.select(shorter).entries) == set(part.entries) & set(shorter.entries)


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "a/b", "1/3/5", "-1/3", "\u0661/\u0663"])
def test_invalid_shards(text):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


def test_shards_carry_the_complete_list(port: Port):
    lists = port.folder / "get_hf"
    lists.mkdir()
    names = [f"org/model-{number}" for number in range(6)]
    for name in names:
        port.hub.add_repo(name, {"config.json": name.encode()})
    (lists / "to_get_models.txt").write_text("\n".join(names) + "\nno such line\n")
    (lists / "to_get_datasets.txt").write_text("")
    runs = [port.ferry("--json", "--shard", f"{number}/2") for number in (1, 2)]
    assert [run.code for run in runs] == [1, 0]
    assert sorted(result["repo_id"] for run in runs for result in run.json["results"]) == names
    assert all(f"[{name}]" in (lists / "models.md").read_text() for name in names)
    assert port.ferry("--shard", "3/2").code == 2


def test_annotations_and_the_summary_of_a_job(port: Port, tmp_path: Path):
    lists = port.folder / "get_hf"
    lists.mkdir()
    repo = port.hub.add_repo("org/here", {"config.json": b"{}", "model.bin": bytes(2_000_000)})
    (lists / "to_get_models.txt").write_text("# models\norg/here\norg/missing@v1\n\norg/here --inclde x\n")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    env = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(port.folder), "GITHUB_STEP_SUMMARY": str(summary)}
    run = port.ferry("--json", env=env)
    assert run.code == 1
    notes = [line for line in run.stderr.splitlines() if line.startswith("::")]
    assert len(notes) == 2
    assert notes[0].startswith("::error file=get_hf/to_get_models.txt,line=5::unknown option '--inclde'")
    assert notes[1].startswith("::error file=get_hf/to_get_models.txt,line=3::org/missing: ")

    (here, _) = run.json["results"]
    lines = summary.read_text().splitlines()
    assert lines[:3] == [
        "before",
        "| Repo | Commit | Size | Uploaded | Reused | Seconds | Image | Error |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[3:6]]
    image = f"{port.image('org--here')}@{here['digest']}"
    assert cells[0] == ["org/here", repo.sha[:12], "2.0 MB", "2.0 MB", "0 B", cells[0][5], image, ""]
    assert cells[1][0] == "org/missing@v1"
    assert "org/missing" in cells[1][7]
    assert cells[2][0] == "get_hf/to_get_models.txt:5"
    assert "inclde" in cells[2][7]
    # What was carried is on record although the run failed.
    assert "[org/here]" in (lists / "models.md").read_text()


def test_list_content_cannot_inject_workflow_commands(port: Port, tmp_path: Path):
    """A list may come from a pull request: annotations show its lines, but its lines cannot create annotations."""
    lists = port.folder / "get_hf"
    lists.mkdir()
    evil = "org/a%0A::set-env name=X::y | <img> | `z`"
    (lists / "to_get_models.txt").write_text(f"'{evil}'\n")
    summary = tmp_path / "summary.md"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_WORKSPACE": str(port.folder)}
    run = port.ferry(env=env)
    assert run.code == 2
    (note,) = [line for line in run.stderr.splitlines() if line.startswith("::")]
    assert "%250A::set-env" in note
    assert len(summary.read_text().splitlines()) == 4
    assert r"\<img\>" in summary.read_text()


def test_no_annotations_outside_github_actions(port: Port):
    run = port.ferry("org/missing", "--json")
    assert run.code == 3
    assert "::error" not in run.stderr
    assert json.loads(run.stdout)["results"][0]["status"] == "failed"
