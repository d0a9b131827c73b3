"""Parsers for response headers."""

from __future__ import annotations

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.net.http_headers import next_link, parse_retry_after, requested_delay


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
