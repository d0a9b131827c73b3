"""The list of repos, searched, sorted and paged by the query. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.pages.repo_filters import FILTERS, UNKNOWN, Row, filtered
from llmstack.hub_server.repo_facts import Facts
from llmstack.hub_server.repo_info import hub_date
from llmstack.hub_server.repo_lists import matching
from llmstack.hub_server.repos import Repo, Revision

PAGE_SIZE = 100


# A longer value of a filter is none that a card has.
_MAX_VALUE = 200


def _by_name(row: Row) -> tuple[Any, ...]:
    return (row.repo.repo_id.casefold(), row.repo.repo_type)


def _largest(row: Row) -> tuple[Any, ...]:
    return (-row.repo.shown.size, *_by_name(row))


# Newest first takes a second sort: a date string cannot be negated.
SORTS: Mapping[str, Callable[[Row], tuple[Any, ...]]] = {"name": _by_name, "size": _largest, "newest": _by_name}


def values(
    repos: Sequence[Repo],
    default: RepoType | None,
    author: str,
    query: Mapping[str, str],
    known: Callable[[Revision], Facts | None],
) -> dict[str, Any]:
    """Return the values of the template, with the repos of an author ("": all).

    `default` is the repo type unless the query has one (None: all). `known` returns what is in memory of a revision.
    """
    repo_types: dict[str, RepoType | None] = {"model": "model", "dataset": "dataset", "all": None}
    repo_type = repo_types.get(query.get("type", ""), default)
    search = query.get("search", "").strip()
    sort = query["sort"] if query.get("sort") in SORTS else "name"
    chosen = {name: query.get(name, "").strip()[:_MAX_VALUE] for name in FILTERS}
    of_author = matching(repos, search="", author=author)
    rows = (Row(repo, known(repo.shown)) for repo in of_author if repo_type in {None, repo.repo_type})
    words = search.casefold().split()
    left = filtered((row for row in rows if row.matches(words)), chosen)
    found = sorted(left.rows, key=SORTS[sort])
    if sort == "newest":
        found.sort(key=lambda row: hub_date(row.repo.shown.created) or "", reverse=True)
    last = max(1, -(-len(found) // PAGE_SIZE))
    number = min(page_number(query), last)

    def url(**changed: object) -> str:
        fields = {"search": search, "type": repo_type or "all", "sort": sort}
        more = {"author": author, **chosen}
        return "?" + urlencode({**fields, **{name: value for name, value in more.items() if value}, **changed})

    return {
        "rows": found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE],
        "count": len(found),
        "total": sum(row.repo.shown.size for row in found),
        "is_empty": not repos,
        "search": search,
        "author": author,
        "type": repo_type or "all",
        "sort": sort,
        "chosen": chosen,
        "options": left.options,
        "hidden": [(name, count, url(**{name: UNKNOWN})) for name, count in left.hidden.items()],
        "page": number,
        "last": last,
        "previous_url": url(page=number - 1) if number > 1 else None,
        "next_url": url(page=number + 1) if number < last else None,
    }


def page_number(query: Mapping[str, str]) -> int:
    """Return the requested page number; 1 if it is missing or invalid."""
    digits = query.get("page", "")
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 1
