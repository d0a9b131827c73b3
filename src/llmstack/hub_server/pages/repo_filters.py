"""The filters of the list of repos. Pure.

A filter offers "unknown" as a value: repos that do not declare what it reads, or were not read yet, stay reachable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmstack.hub_server.repo_facts import Facts, declared_values
from llmstack.hub_server.repos import Repo

# The value of a filter for what is unknown. No task, library, license or language has this name.
UNKNOWN = "-"
# A longer list of values is of no use to a person; the common ones come first.
MAX_OPTIONS = 200
_GB = 1000**3
# The size of all files, by the largest number of bytes.
SIZES: Mapping[str, float] = {
    "1GB": _GB,
    "5GB": 5 * _GB,
    "20GB": 20 * _GB,
    "100GB": 100 * _GB,
    "more": float("inf"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A repo, and what its files declare; None if they were not read yet."""

    repo: Repo
    facts: Facts | None

    def matches(self, words: Iterable[str]) -> bool:
        """Tell whether each word is in a name or a tag of the repo, ignoring case."""
        text = "\n".join([*self.repo.ids, *(self.facts.tags if self.facts else ())]).casefold()
        return all(word in text for word in words)

    @property
    def tasks(self) -> Sequence[str]:
        """The task of a model; those of a dataset."""
        if self.facts is None:
            return ()
        task = self.facts.pipeline_tag
        return (task,) if task else declared_values(self.facts.card, "task_categories")

    @property
    def libraries(self) -> Sequence[str]:
        """The library that loads a model."""
        return (self.facts.library,) if self.facts and self.facts.library else ()

    @property
    def licenses(self) -> Sequence[str]:
        """The licenses of the card, else the one in the file index."""
        found = declared_values(self.facts.card, "license") if self.facts else []
        return found or ([self.repo.shown.license] if self.repo.shown.license else [])

    @property
    def languages(self) -> Sequence[str]:
        """The languages of the card."""
        return declared_values(self.facts.card, "language") if self.facts else ()

    @property
    def sizes(self) -> Sequence[str]:
        """The range that the size of the files is in; an image without a file index has the size of its layers only."""
        revision = self.repo.shown
        return () if revision.files is None else [next(name for name, most in SIZES.items() if revision.size <= most)]


FILTERS: Mapping[str, Callable[[Row], Sequence[str]]] = {
    "task": lambda row: row.tasks,
    "library": lambda row: row.libraries,
    "license": lambda row: row.licenses,
    "language": lambda row: row.languages,
    "size": lambda row: row.sizes,
}


@dataclass(frozen=True, slots=True)
class Filtered:
    """What the filters leave.

    `options` are the values of each filter with the number of repos that choosing it shows. `hidden` is the number of
    repos that only one filter hides, because what it reads is unknown.
    """

    rows: list[Row]
    options: Mapping[str, list[tuple[str, int]]]
    hidden: Mapping[str, int]


def filtered(rows: Iterable[Row], chosen: Mapping[str, str]) -> Filtered:
    """Apply the chosen value of each filter; "" is any."""
    shown: list[Row] = []
    counts: Mapping[str, Counter[str]] = {name: Counter() for name in FILTERS}
    hidden: Counter[str] = Counter()
    for row in rows:
        found = {name: set(read(row)) or {UNKNOWN} for name, read in FILTERS.items()}
        missed = [name for name, value in chosen.items() if value and value not in found[name]]
        if not missed:
            shown.append(row)
        for name in missed if len(missed) == 1 else () if missed else FILTERS:
            counts[name].update(found[name])
            hidden[name] += bool(missed) and found[name] == {UNKNOWN}
    return Filtered(
        shown,
        {name: _options(name, counted, chosen.get(name, "")) for name, counted in counts.items()},
        {name: count for name, count in hidden.items() if count},
    )


def _options(name: str, counts: Counter[str], chosen: str) -> list[tuple[str, int]]:
    unknown = counts.pop(UNKNOWN, 0)
    if name == "size":
        common = [(value, counts[value]) for value in SIZES if counts[value]]
    else:
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_OPTIONS]
    if unknown:
        common.append((UNKNOWN, unknown))
    return common if not chosen or any(value == chosen for value, _ in common) else [*common, (chosen, counts[chosen])]
