"""`.gitignore` files leave out what git leaves out."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmstack.ferrying.ignore_rules import IgnoreRules
from llmstack.ferrying.local_files import LocalTree
from tests.support.process import need

_NAMES = st.sampled_from(["a", "b", "ab", "a.b", "b.log", "é"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_WORDS = st.sampled_from(["a", "b", "*", "**", "?", "[ab]", "*.log", "a*", "é", "\\a", "ab"])
_PATTERNS = st.tuples(
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(_WORDS, min_size=1, max_size=3).map("/".join),
    st.sampled_from(["", "/", "/**", "/*", " "]),
).map("".join)
_IGNORE_FILE = st.lists(_PATTERNS | st.sampled_from(["", "# a comment", "\\#a", "/", "!", "a\r"]), max_size=4)


@pytest.mark.system
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=st.sets(_PATHS, min_size=1, max_size=8),
    top=_IGNORE_FILE,
    nested=st.dictionaries(st.sampled_from(["a", "a/b", "ab"]), _IGNORE_FILE, max_size=2),
)
@example(files={"a/a", "a/b/a", "a/b/b/a"}, top=["a/**/", "!a/b/"], nested={})
def test_files_are_those_that_git_would_add(files, top, nested):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for path in sorted(files):
            # A path may be a file and the directory of another one.
            if not any(other.startswith(f"{path}/") for other in files):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(b"")
        for directory, lines in {"": top, **nested}.items():
            if (folder / directory).is_dir():
                (folder / directory / ".gitignore").write_text("\n".join(lines))
        git = [need("git", "git"), "-C", name]
        subprocess.run([*git, "init", "--quiet"], check=True)
        command = [*git, "ls-files", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, check=True, capture_output=True).stdout.split(b"\0")
        found = LocalTree(folder, folder).find()
        assert [os.fsencode(file.path) for file in found.files] == sorted(path for path in listed if path)


def test_names_that_are_not_utf8():
    rules = IgnoreRules().with_file("", b"\xff*\n")
    assert rules.ignores(os.fsdecode(b"\xffa"), is_directory=False)
    assert not rules.ignores("a", is_directory=False)
