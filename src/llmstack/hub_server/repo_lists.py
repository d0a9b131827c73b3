"""The query of a list of repos: filters, order and fields. Pure.

A parameter that is not known is an error: a client must not take all repos for the ones that it asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.query_values import (
    Values,
    invalid,
    page_limit,
    read_flag,
    read_number,
    read_one,
    values_of,
)
from llmstack.hub_server.repo_facts import Facts, Weights
from llmstack.hub_server.repo_info import BASIC, DECLARED, FROM_WEIGHTS, SIBLINGS, expanded, hub_date
from llmstack.hub_server.repos import Repo

# The entries of one page of a list or a tree, as on the Hub; and of a list with files or headers of files.
PAGE = 1000
EXPENSIVE_PAGE = 100

# The parameters that filter by a tag, and the start of that tag.
_TAGS: Mapping[RepoType, Mapping[str, str]] = {
    "model": {"filter": "", "other": "", "library": "", "language": "", "license": "license:", "dataset": "dataset:"},
    "dataset": {
        "filter": "",
        "other": "",
        "benchmark": "benchmark:",
        **{
            name: f"{name}:"
            for name in (
                "language",
                "language_creators",
                "license",
                "multilinguality",
                "size_categories",
                "task_categories",
                "task_ids",
            )
        },
    },
}
_OF_MODELS = {"apps", "inference", "inference_provider", "num_parameters", "pipeline_tag"}
# The apps that run a model by its GGUF files; what others can run, this hub does not know.
_APPS = frozenset({"llama.cpp", "ollama"})
_OTHERS = {"author", "cardData", "config", "cursor", "direction", "expand", "full", "gated", "limit", "search", "sort"}
# `min:6B,max:128B`: how many parameters a model has.
_RANGE = re.compile(r"(min|max):(\d{1,15}(?:\.\d{1,9})?)([KMBT]?)", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


# The order by this needs the headers of all models.
_BY_PARAMETERS = "num_parameters"


def _nothing(_: Repo) -> str:
    """All repos have the same number of downloads, likes and rows: this hub counts none."""
    return ""


_SORTS: Mapping[str, Callable[[Repo], Any]] = {
    # Clients before huggingface_hub 0.24 send names with underscores.
    **dict.fromkeys(
        ("createdAt", "created_at", "lastModified", "last_modified"), lambda repo: hub_date(repo.shown.created) or ""
    ),
    **dict.fromkeys(("downloads", "likes", "likes30d", "trendingScore", "trending_score"), _nothing),
    # What huggingface.js sends for models and datasets.
    _BY_PARAMETERS: _nothing,
    "datasetsServerInfo.numRows": _nothing,
    "mainSize": lambda repo: repo.shown.size,
    "id": lambda repo: repo.repo_id.lower(),
}


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a client asks for: `tags` in lower case; the lowest and highest number of `parameters`; None for any.

    `inference` asks for models that a provider runs: there are none.
    """

    repo_type: RepoType
    search: str
    author: str
    tags: frozenset[str]
    task: str
    gated: bool | None
    inference: bool
    parameters: tuple[float, float] | None
    sort: str
    ascending: bool
    limit: int
    cursor: int
    fields: frozenset[str]

    @classmethod
    def parse(cls, repo_type: RepoType, query: QueryParams) -> ListQuery:
        """Read a query; raises AnswerError for unknown parameters and invalid values."""
        values = values_of(query)
        known = {*_OTHERS, *_TAGS[repo_type], *(_OF_MODELS if repo_type == "model" else ())}
        if unknown := sorted(values.keys() - known):
            names = ", ".join(sorted(known))
            raise invalid(f"{unknown[0]!r} is not a parameter of a list of {repo_type}s; known are {names}")
        sort = read_one(values, "sort") or ""
        if sort and sort not in _SORTS:
            raise invalid(f"sort: {sort!r} is unknown; known are {', '.join(sorted(_SORTS))}")
        direction = read_one(values, "direction") or ""
        if direction not in {"", "1", "-1"}:
            raise invalid("direction: must be 1 or -1")
        fields = _fields(repo_type, values)
        page = EXPENSIVE_PAGE if fields & (FROM_WEIGHTS | SIBLINGS) else PAGE
        return cls(
            repo_type=repo_type,
            search=" ".join(values.get("search", [])),
            author=read_one(values, "author") or "",
            tags=frozenset(_wanted_tags(repo_type, values)),
            task=_task(read_one(values, "pipeline_tag")),
            gated=read_flag(values, "gated"),
            inference=_inference(values),
            parameters=_parameters(read_one(values, "num_parameters")),
            sort=sort,
            ascending=direction == "1" or (not direction and sort == "id"),
            limit=page_limit(values, page),
            cursor=read_number(values, "cursor") or 0,
            fields=fields,
        )

    @property
    def needs_facts(self) -> bool:
        """Whether the filters need the cards of all repos."""
        return bool(self.tags or self.task)

    @property
    def needs_weights(self) -> bool:
        """Whether the filters or the order need the headers of all models."""
        return self.repo_type == "model" and (self.parameters is not None or self.sort == _BY_PARAMETERS)

    def candidates(self, repos: Iterable[Repo]) -> list[Repo]:
        """Return the repos that match in all but their facts, in order."""
        if self.inference:
            return []
        found = matching(repos, search=self.search, author=self.author)
        if self.gated is not None:
            found = [repo for repo in found if repo.shown.gated == self.gated]
        return sorted(found, key=_SORTS[self.sort], reverse=not self.ascending) if self.sort else found

    def by_weights(self, repos: Sequence[Repo], weights: Sequence[Weights]) -> list[Repo]:
        """Return the models whose weights match, in order.

        One with an unknown number of parameters is in no range, and the last in any order by that number.
        """
        totals = [(repo, found.total) for repo, found in zip(repos, weights, strict=True)]
        if self.parameters:
            low, high = self.parameters
            totals = [(repo, total) for repo, total in totals if total is not None and low <= total <= high]
        if self.sort == _BY_PARAMETERS:
            direction = 1 if self.ascending else -1
            totals.sort(key=lambda item: math.inf if item[1] is None else direction * item[1])
        return [repo for repo, _ in totals]

    def accepts(self, facts: Facts) -> bool:
        """Tell whether a repo with these facts matches."""
        has_task = not self.task or self.task.lower() == (facts.pipeline_tag or "").lower()
        return has_task and self.tags <= {tag.lower() for tag in facts.tags}


def matching(repos: Iterable[Repo], *, search: str, author: str) -> list[Repo]:
    """Return the repos of an author (default: any) whose ID contains each word of `search`, ignoring case.

    A renamed repo is found by both IDs.
    """
    words = search.casefold().split()
    start = f"{author.casefold()}/" if author else ""

    def fits(repo_id: str) -> bool:
        return repo_id.startswith(start) and all(word in repo_id for word in words)

    return [repo for repo in repos if any(fits(name.casefold()) for name in repo.ids)]


def _fields(repo_type: RepoType, values: Values) -> frozenset[str]:
    if names := [name for value in values.get("expand", []) for name in value.split(",") if name]:
        return expanded(repo_type, names)
    found = {*BASIC, *DECLARED}
    if read_flag(values, "full"):
        found |= SIBLINGS | {"cardData"}
    if read_flag(values, "cardData"):
        found.add("cardData")
    if read_flag(values, "config"):
        found.add("config")
    return frozenset(found)


def _inference(values: Values) -> bool:
    if read_one(values, "inference") not in {None, "warm"}:
        raise invalid("inference: must be warm")
    return not values.keys().isdisjoint({"inference", "inference_provider"})


def _wanted_tags(repo_type: RepoType, values: Values) -> Iterable[str]:
    if apps := [app for value in values.get("apps", []) for app in value.lower().split(",")]:
        if unknown := sorted({*apps} - _APPS):
            raise invalid(f"apps: {unknown[0]!r} is unknown; known are {', '.join(sorted(_APPS))}")
        yield "gguf"
    for name, start in _TAGS[repo_type].items():
        for value in values.get(name, []):
            tags = [tag for part in value.split(",") if (tag := part.strip().lower())]
            if not tags:
                raise invalid(f"{name}: {value!r} names no tag")
            for tag in tags:
                yield tag if tag.startswith(start) else start + tag


def _task(text: str | None) -> str:
    # Clients leave out a filter that they do not use: an empty one is a mistake, and must not select all repos.
    if text == "":
        raise invalid("pipeline_tag: '' names no task")
    return text or ""


def _parameters(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    found = {"min": 0.0, "max": math.inf}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise invalid("num_parameters: must be as in min:6B,max:128B")
        found[match[1].lower()] = float(match[2]) * _UNITS[match[3].upper()]
    return found["min"], found["max"]
