"""Catalogues are merged row by row: directly, and by git with a real remote and several clones."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.lists.catalogue import CatalogueRow, empty, merge, parse, record, upsert
from llmstack.oci.reference import Digest

ROW = CatalogueRow(
    repo_id="org/a",
    repo_type="model",
    revision="main",
    commit="a" * 40,
    created="2024-05-06T07:08:09Z",
    size=1000,
    license="mit",
    image="registry.local/models:org--a",
    digest=Digest.of(b"image"),
)
KEYS = [f"org/{name}" for name in "abcdef"]


def build(versions: dict[str, int], text: str = "") -> str:
    """Return a catalogue with a row per repo; a version is the day of its commit."""
    for key, version in versions.items():
        text = upsert(text, replace(ROW, repo_id=key, created=f"2024-05-{version + 1:02}T00:00:00Z"))
    return text or empty("model")


CATALOGUES = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3))


@given(CATALOGUES, CATALOGUES, CATALOGUES)
def test_no_change_of_either_side_is_lost(base, ours, theirs):
    """Rows are only added or get newer: the order of merges does not matter, and the newest row wins."""
    ours, theirs = (
        {**base, **{key: max(new, base.get(key, 0)) for key, new in side.items()}} for side in (ours, theirs)
    )
    expected = {key: max(side.get(key, 0) for side in (ours, theirs)) for key in {*ours, *theirs}}
    merged = merge(build(base), build(ours), build(theirs))
    assert merged == build(dict(sorted(expected.items())))
    assert merge(build(base), build(theirs), build(ours)) == merged


def test_a_row_deleted_by_a_user_stays_deleted_unless_carried_again():
    base, less = build({"org/a": 0, "org/b": 0}), build({"org/a": 0})
    more = build({"org/c": 0}, base)
    assert merge(base, less, more) == build({"org/a": 0, "org/c": 0})
    assert merge(base, more, less) == build({"org/a": 0, "org/c": 0})
    again = build({"org/b": 1}, base)
    assert parse(merge(base, less, again) or "").keys() == {"org/a", "org/b"}
    assert parse(merge(base, again, less) or "").keys() == {"org/a", "org/b"}


def test_text_that_one_side_adds_is_kept():
    base = build({"org/a": 0})
    written = base.replace("# Carried models", "# Our models") + "\nAsk Ada.\n"
    carried = build({"org/b": 0}, base)
    for ours, theirs in ((written, carried), (carried, written)):
        assert merge(base, ours, theirs) == build({"org/b": 0}, written)
    other = base.replace("# Carried models", "# Their models")
    assert merge(base, written, other) is None


def test_a_file_created_on_both_sides():
    assert merge("", build({"org/a": 0}), build({"org/b": 0})) == build({"org/a": 0, "org/b": 0})


def test_a_deleted_table_is_a_conflict():
    base = build({"org/a": 0})
    assert merge(base, "# Nothing here\n", build({"org/b": 0}, base)) is None


class Clone:
    """A clone of a bare repo, whose git knows the merge driver."""

    def __init__(self, remote: Path, folder: Path) -> None:
        self.folder = folder
        subprocess.run(["git", "clone", "-q", remote, folder], check=True)
        driver = f"{sys.executable} -m llmstack catalogue merge %O %A %B"
        for name, value in {"user.name": "t", "user.email": "t@example.org", "merge.llmstack.driver": driver}.items():
            self.git("config", name, value)

    def git(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    @property
    def catalogue(self) -> Path:
        return self.folder / "get_hf/models.md"

    def carry(self, *keys: str) -> None:
        for key in keys:
            record(self.catalogue, replace(ROW, repo_id=key))
        self.git("commit", "-qam", "Record " + " ".join(keys))


@pytest.fixture
def remote(tmp_path: Path, pytestconfig: pytest.Config) -> Path:
    """A bare repo with this project's .gitattributes and an empty catalogue."""
    bare = tmp_path / "remote.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", bare], check=True)
    first = Clone(bare, tmp_path / "first")
    first.catalogue.parent.mkdir()
    first.catalogue.write_text(empty("model"))
    (first.folder / ".gitattributes").write_text((pytestconfig.rootpath / ".gitattributes").read_text())
    first.git("checkout", "-q", "-b", "main")
    first.git("add", "-A")
    first.git("commit", "-qm", "First")
    first.git("push", "-q", "origin", "main")
    return bare


def test_two_clones_that_push_one_after_the_other(remote: Path, tmp_path: Path):
    one, two = (Clone(remote, tmp_path / name) for name in ("one", "two"))
    one.carry("org/a", "org/c")
    two.carry("org/b", "org/d")
    one.git("push", "-q", "origin", "main")
    assert two.git("push", "-q", "origin", "main", check=False).returncode != 0
    two.git("pull", "-q", "--rebase", "origin", "main")
    two.git("push", "-q", "origin", "main")
    assert list(parse(Clone(remote, tmp_path / "look").catalogue.read_text())) == KEYS[:4]


def test_different_lines_of_users_are_a_conflict(remote: Path, tmp_path: Path):
    one, two = (Clone(remote, tmp_path / name) for name in ("one", "two"))
    for clone, title in ((one, "# One"), (two, "# Two")):
        clone.catalogue.write_text(clone.catalogue.read_text().replace("# Carried models", title))
        clone.git("commit", "-qam", title)
    one.git("push", "-q", "origin", "main")
    done = two.git("pull", "--rebase", "origin", "main", check=False)
    assert done.returncode != 0
    text = two.catalogue.read_text()
    assert all(mark in text for mark in ("<<<<<<<", "# One", "# Two", ">>>>>>>"))


def test_git_without_the_driver_merges_as_usual(remote: Path, tmp_path: Path):
    clone = Clone(remote, tmp_path / "one")
    clone.git("config", "--unset", "merge.llmstack.driver")
    clone.git("checkout", "-q", "-b", "side")
    clone.carry("org/a")
    clone.git("checkout", "-q", "main")
    (clone.folder / "other").write_text(os.sep)
    clone.git("add", "-A")
    clone.git("commit", "-qm", "Other")
    clone.git("merge", "-q", "side")
    assert list(parse(clone.catalogue.read_text())) == ["org/a"]
