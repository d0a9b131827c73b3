"""The list of repos: searched, sorted, and cut into pages by its address alone. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.hub_api import hub_date, matching
from llmstack.hub_server.repos import Repo

# Where the list is, and of which type it is there where the address says no other.
PATHS: Mapping[str, RepoType | None] = {"": None, "/models": "model", "/datasets": "dataset"}
PAGE_SIZE = 100


def _by_name(repo: Repo) -> tuple[Any, ...]:
    return (repo.repo_id.casefold(), repo.kind)


def _largest(repo: Repo) -> tuple[Any, ...]:
    return (-repo.shown.size, *_by_name(repo))


# Newest first is done in two steps: dates are text, which has no negative.
SORTS: Mapping[str, Callable[[Repo], tuple[Any, ...]]] = {"name": _by_name, "size": _largest, "newest": _by_name}


def values(everything: Sequence[Repo], path: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the catalogue's page shows of all repos, for its path and query."""
    kinds: dict[str, RepoType | None] = {"model": "model", "dataset": "dataset", "all": None}
    kind = kinds.get(query.get("type", ""), PATHS[path])
    search = query.get("search", "").strip()
    sort = query["sort"] if query.get("sort") in SORTS else "name"
    found = [repo for repo in matching(everything, search=search, author="") if kind in {None, repo.kind}]
    found.sort(key=SORTS[sort])
    if sort == "newest":
        found.sort(key=lambda repo: hub_date(repo.shown.created) or "", reverse=True)
    last = max(1, -(-len(found) // PAGE_SIZE))
    number = min(page_number(query), last)

    def page_url(page: int) -> str:
        return "/?" + urlencode({"search": search, "type": kind or "all", "sort": sort, "page": page})

    return {
        "repos": found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE],
        "count": len(found),
        "total": sum(repo.shown.size for repo in found),
        "is_empty": not everything,
        "search": search,
        "type": kind or "all",
        "sort": sort,
        "page": number,
        "last": last,
        "previous_url": page_url(number - 1) if number > 1 else None,
        "next_url": page_url(number + 1) if number < last else None,
    }


def page_number(query: Mapping[str, str]) -> int:
    """Return the page that an address asks for: 1 where it says nothing that is a number."""
    text = query.get("page", "")
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else 1
