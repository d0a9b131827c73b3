"""The list of repos, searched, sorted and paged by the query. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.repo_info import hub_date
from llmstack.hub_server.repo_lists import matching
from llmstack.hub_server.repos import Repo

PAGE_SIZE = 100


def _by_name(repo: Repo) -> tuple[Any, ...]:
    return (repo.repo_id.casefold(), repo.repo_type)


def _largest(repo: Repo) -> tuple[Any, ...]:
    return (-repo.shown.size, *_by_name(repo))


# Newest first takes a second sort: a date string cannot be negated.
SORTS: Mapping[str, Callable[[Repo], tuple[Any, ...]]] = {"name": _by_name, "size": _largest, "newest": _by_name}


def values(repos: Sequence[Repo], default: RepoType | None, author: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the template, with the repos of an author ("": all).

    `default` is the repo type unless the query has one (None: all).
    """
    repo_types: dict[str, RepoType | None] = {"model": "model", "dataset": "dataset", "all": None}
    repo_type = repo_types.get(query.get("type", ""), default)
    search = query.get("search", "").strip()
    sort = query["sort"] if query.get("sort") in SORTS else "name"
    found = [repo for repo in matching(repos, search=search, author=author) if repo_type in {None, repo.repo_type}]
    found.sort(key=SORTS[sort])
    if sort == "newest":
        found.sort(key=lambda repo: hub_date(repo.shown.created) or "", reverse=True)
    last = max(1, -(-len(found) // PAGE_SIZE))
    number = min(page_number(query), last)

    def page_url(page: int) -> str:
        fields = {"search": search, "type": repo_type or "all", "sort": sort, "page": page}
        return "?" + urlencode({**fields, "author": author} if author else fields)

    return {
        "repos": found[(number - 1) * PAGE_SIZE : number * PAGE_SIZE],
        "count": len(found),
        "total": sum(repo.shown.size for repo in found),
        "is_empty": not repos,
        "search": search,
        "author": author,
        "type": repo_type or "all",
        "sort": sort,
        "page": number,
        "last": last,
        "previous_url": page_url(number - 1) if number > 1 else None,
        "next_url": page_url(number + 1) if number < last else None,
    }


def page_number(query: Mapping[str, str]) -> int:
    """Return the requested page number; 1 if it is missing or invalid."""
    digits = query.get("page", "")
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 1
