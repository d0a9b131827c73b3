"""YAML from strangers: a value, or YamlError with the line; never another exception, never much memory or time."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmstack.errors import UsageError
from llmstack.safe_yaml import MAX_DEPTH, MAX_NODES, YamlError, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 10)
)
CHAIN = "a0: &a0 x\n" + "".join(f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, MAX_DEPTH + 10))


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: !!bool foo", "invalid value for bool", 2),
        ('a: 1\nb: !!int ""', "invalid value for int", 2),
        ("!!float x", "invalid value for float", 1),
        ("!!timestamp x", "invalid value for timestamp", 1),
        ("a: 2024-99-99", "invalid value for timestamp", 1),
        (f"a: {'9' * 5000}", "invalid value for int", 1),
        ("!!int [1]", "expected a scalar node", 1),
        ("!!set x", "expected a mapping node", 1),
        ("!!python/object:os.system x", "could not determine a constructor", 1),
        ("? [a]\n: b", "found unhashable key", 1),
        ('"\\ud800"', "not Unicode", 1),
        ("a: [", "", 1),
        ("&a [*a]", "an alias inside", 1),
        ("a: &a\n  b: *a", "an alias inside", 1),
        ("*a", "found undefined alias", 1),
        ("a: \x07", "special characters are not allowed", None),
        (b"\xff\xff", "", None),
        ("a: 1\n---\nb: 2", "but found another document", 2),
        (BOMB, f"more than {MAX_NODES} nodes", 5),
        (MERGE_BOMB, f"more than {MAX_NODES} nodes", 6),
        (CHAIN, f"or {MAX_DEPTH} levels", MAX_DEPTH + 1),
        ("[" * 5000, f"nested deeper than {MAX_DEPTH} levels", 1),
        ("? " * 5000, f"nested deeper than {MAX_DEPTH} levels", 1),
    ],
)
def test_an_invalid_document_is_a_yaml_error_with_its_line(text: str | bytes, problem: str, line: int | None):
    began = time.process_time()
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)
    assert problem in caught.value.problem
    assert caught.value.line == line
    assert time.process_time() - began < 5


def test_valid_documents_keep_their_values():
    text = "a: &a {x: 1, y: [2.5, yes, null]}\nb: {<<: *a, z: *a}\nc: 2024-05-06\nd: !!binary aGk="
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


TAG = st.sampled_from(["", "!!bool ", "!!int ", "!!float ", "!!timestamp ", "!!null ", "!!binary ", "!!set ", "!!map "])
MORE_TAGS = st.sampled_from(["!!seq ", "!!omap ", "!!pairs ", "!!str ", "!x ", "&a ", "? ", "- ", "<<: "])
VALUE = st.sampled_from(["''", "*a", "foo", "1:99", "0x", "0b2", "{", "}", "[", "]", ",", "'", '"\\ud800"', "b: "])
TEXT = st.lists(st.one_of(TAG, MORE_TAGS, VALUE, st.text(max_size=5)), max_size=10).map("".join)


@given(TEXT)
def test_any_text_is_a_value_or_a_yaml_error(text: str):
    with contextlib.suppress(YamlError):
        parse_yaml(text)


def test_a_file_is_named_with_the_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb: !!bool foo\n")
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    assert caught.value.message == f"{path}:2: invalid YAML: invalid value for bool"
    with pytest.raises(UsageError, match="cannot be read"):
        read_yaml(tmp_path)
    path.write_text(json.dumps({"a": [1]}))
    assert read_yaml(path) == {"a": [1]}
