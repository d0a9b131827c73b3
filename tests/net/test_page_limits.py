"""Limits for lists in pages."""

from __future__ import annotations

import pytest

from llmstack.errors import UnavailableError
from llmstack.net.page_limits import PageLimits


@pytest.mark.parametrize(
    ("entries", "accepted", "limit"),
    [
        (0, 99, "more than 100 pages with fewer than 10 entries on average"),
        (9, 99, "more than 100 pages with fewer than 10 entries on average"),
        (10, 199, "more than 200 pages"),
        (1000, 100, "more than 100,000 entries"),
    ],
)
def test_a_list_in_pages_is_limited(entries: int, accepted: int, limit: str):
    pages = PageLimits("the list", max_entries=100_000, max_pages=200)
    for _ in range(accepted):
        pages.count(entries)
    with pytest.raises(UnavailableError, match=f"^the list: {limit}$"):
        pages.count(entries)


def test_a_list_may_begin_with_full_pages():
    pages = PageLimits("the list", max_entries=100_000, max_pages=200)
    pages.count(1000)
    for _ in range(99):
        pages.count(1)
