"""Parsers for response headers."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.net.http_headers import (
    basic_auth,
    content_range,
    is_header_value,
    next_link,
    parse_retry_after,
    requested_delay,
)


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("7", 7.0), (" 120 ", 120.0), ("9" * 400, float("inf"))])
def test_retry_after_in_seconds(value: str, seconds: float):
    assert parse_retry_after(value) == seconds


@pytest.mark.parametrize("ahead", [-100, 0, 90])
def test_retry_after_as_a_date(ahead: int):
    date = email.utils.formatdate(time.time() + ahead, usegmt=True)
    assert parse_retry_after(date) == pytest.approx(max(0, ahead), abs=2)


@pytest.mark.parametrize("value", [None, "", "soon", "-3", "1.5", "\u00b2", "Mon, 99 Foo 99999 99:99:99 GMT", "Fri"])
def test_an_invalid_retry_after_is_ignored(value: str | None):
    assert parse_retry_after(value) is None


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_retry_after_is_a_delay_or_none(value: str):
    seconds = parse_retry_after(value)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "3"}, 3.0),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"pages";r=12;t=9, "resolvers";r=0;t=40'}, 40.0),
        ({"RateLimit": '"api";r=499;t=55'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"Retry-After": "2", "RateLimit": '"api";r=0;t=55'}, 2.0),
    ],
)
def test_a_delay_from_retry_after_or_rate_limit(headers: dict[str, str], seconds: float | None):
    assert requested_delay(headers) == seconds


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ("", None),
        ('</v2/x/tags/list?last=a>; rel="next"', "/v2/x/tags/list?last=a"),
        ("<https://h/a?b=1,2;3>; rel=next", "https://h/a?b=1,2;3"),
        ('<a>; rel="prev", <b>; rel="next"', "b"),
        ('<a>; title="<c>; rel=next"; rel="first", <b>;title*=utf-8\'\'x ; REL = "last Next"', "b"),
        ('<a>; title="say \\"hi\\""; rel=next', "a"),
        ("<a>;;rel=next", "a"),
        ('<a>; rel="nextpage"', None),
        ("<a; rel=next", None),
        ("a; rel=next", None),
        ("<a>, rel=next", None),
    ],
)
def test_next_link(header: str, url: str | None):
    assert next_link({"Link": header}) == url


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes 5-9/10", (5, 10)),
        (" bytes 0-0/* ", (0, None)),
        ("bytes 5-9/" + "9" * 5000, None),
        ("bytes " + "9" * 5000 + "-9/10", None),
        ("bytes \u0665-9/10", None),
        ("bytes */10", None),
        ("", None),
    ],
)
def test_content_range(header: str, expected: tuple[int, int | None] | None):
    assert content_range({"Content-Range": header}) == expected


def test_header_values_have_no_control_characters():
    assert is_header_value("Bearer a b\t\xe9~")
    assert not any(is_header_value(f"a{chr(code)}b") for code in (*range(9), *range(10, 32), 127, 256, 0xD800))
    assert not is_header_value("a\n")


def test_basic_auth():
    assert basic_auth("me", "pä:ss") == "Basic bWU6cMOkOnNz"
    assert basic_auth("\ud800", "").isascii()


@pytest.mark.parametrize("unit", ["a", "<", "<a>;", '<a>;x="', ";", " ", "9", "Mon, ", ";r=1;t", "a=", ":", "0-"])
def test_parsers_take_linear_time(unit: str):
    """With quadratic time, each of them would take minutes."""
    header = unit * (1_000_000 // len(unit))
    began = time.process_time()
    next_link({"Link": header})
    next_link({"Link": f"<a>{header}"})
    requested_delay({"Retry-After": header, "RateLimit": header})
    content_range({"Content-Range": f"bytes {header}"})
    assert time.process_time() - began < 10
