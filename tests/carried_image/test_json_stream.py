"""A JSON object whose list is yielded item by item: same values as json.loads, however it is cut up."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.carried_image.json_stream import MAX_VALUE, parse_items
from llmstack.errors import IntegrityError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def parse(data: bytes, step: int = 7) -> dict[str, Any]:
    members: dict[str, Any] = {}
    chunks = [data[start : start + step] for start in range(0, len(data), step)]
    items = list(parse_items(chunks, "items", members, "a document"))
    return {**members, "items": items} if "items" in members else members


@given(
    st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
    st.lists(VALUES, max_size=5),
    st.integers(1, 40),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_values_are_those_of_json(members, items, step, indent, ascii_):
    value = {**members, "items": items}
    assert parse(json.dumps(value, indent=indent, ensure_ascii=ascii_).encode(), step) == value


@given(st.binary(max_size=40), st.integers(0, 40), st.integers(1, 40))
def test_other_data_is_an_integrity_error(noise, place, step):
    """No other exception, and no other value than that of json.loads."""
    whole = b'{"a": [1, 2.5], "items": [{"b": null}, "\\u00e9"], "c": true}'
    for data in (noise, whole[:place] + noise + whole[place:], whole[:place]):
        try:
            found = parse(data, step)
        except IntegrityError:
            continue
        assert found == json.loads(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"items": {}}',
        b'{"items": [1,]}',
        b'{"items": [1 2]}',
        b'{"items": []} x',
        b'{"a": 1, "a": 2}',
        b"{1: 2}",
        b'{"a": "\xff"}',
        b'{"a": "\xe9',
        b'{"items": ' + b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": 9223372036854775808}',
        b'{"items": [{"size": 1e400}]}',
        b'{"items": ["\\ud800"]}',
        b'{"items": [' + b"[" * 65 + b"]" * 65 + b"]}",
    ],
    ids=range(17),
)
def test_invalid_documents_are_refused(data):
    with pytest.raises(IntegrityError):
        parse(data, 4096)


@pytest.mark.slow
def test_a_value_that_is_too_long_is_refused_in_time():
    for value in (b'"' + b"x" * 2 * MAX_VALUE + b'"', b"[" + b"[]," * MAX_VALUE + b"[]]", b"1" * 2 * MAX_VALUE):
        for name in (b"a", b"items"):
            began = time.process_time()
            with pytest.raises(IntegrityError):
                parse(b'{"%s": [%s]}' % (name, value), 1000)
            assert time.process_time() - began < 10


@pytest.mark.slow
def test_items_that_are_not_kept_cost_no_memory():
    """At once, these fifty thousand lists would take 3 MB."""
    chunks = [b'{"items": [[]', *([b",[]" * 1000] * 50), b"]}"]
    tracemalloc.start()
    try:
        assert sum(1 for _ in parse_items(chunks, "items", {}, "a document")) == 50_001
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_all_members_together_have_a_limit():
    """Unknown members are limited, because the parser keeps them."""
    value = b'"' + b"x" * 100_000 + b'"'
    chunks = (b'{"items": []' if number == 0 else b', "%d": %s' % (number, value) for number in range(1000))
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError, match="the members without 'items' have more than 2097152 characters"):
            list(parse_items(chunks, "items", {}, "a document"))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
