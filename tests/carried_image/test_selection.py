"""--include and --exclude select what `hf download` selects: compared with huggingface_hub."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.selection import Selection, select

PATHS = st.lists(st.text(st.sampled_from("aAb.*[]-/"), min_size=1, max_size=8), max_size=12, unique=True)
GLOBS = st.lists(st.text(st.sampled_from("aAb.*?[]!-/"), min_size=1, max_size=6), max_size=3)


@given(PATHS, GLOBS, GLOBS)
def test_globs_select_what_huggingface_hub_selects(paths: list[str], include: list[str], exclude: list[str]):
    expected = list(filter_repo_objects(paths, allow_patterns=include or None, ignore_patterns=exclude or None))
    assert select(paths, Selection(tuple(include), tuple(exclude)), str) == expected


FILES = ["README.md", "a/model.safetensors", "a/b/model.bin", "ab/x", "model.safetensors"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), FILES),
        (("*.safetensors",), (), ["a/model.safetensors", "model.safetensors"]),
        (("a/",), (), ["a/model.safetensors", "a/b/model.bin"]),
        ((), ("a/*",), ["README.md", "ab/x", "model.safetensors"]),
        (("*.md", "ab/*"), ("ab/*",), ["README.md"]),
        (("readme.md",), (), []),
        (("nothing",), (), []),
        (("",), (), []),
    ],
)
def test_globs(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]):
    assert select(FILES, Selection(include, exclude), str) == expected


def test_hostile_globs_take_no_time():
    paths = ["a" * 200 + f"{number}" for number in range(200)]
    assert select(paths, Selection(("*a" * 30 + "*b",)), str) == []
