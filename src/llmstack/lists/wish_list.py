"""Wish lists: one repo a line, with what to take of it. People write them; llmstack only reads them.

A line is `repo_id`, `repo_id@revision` or the address of a page of the hub, then any of `--include GLOB`,
`--exclude GLOB` (both repeatable) and `--prepare SCRIPT`. Words are quoted as in a shell. `#` starts a comment at the
start of a line or after a space.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstack.carried_image.naming import DEFAULT_REVISION, parse_repo, tag_for
from llmstack.carried_image.selection import NO_SELECTION, Selection
from llmstack.errors import UsageError
from llmstack.hf.hub_urls import ENDPOINT_VARIABLE
from llmstack.hf.snapshot import RepoType
from llmstack.reporting.text import printable

OPTIONS = ("--include", "--exclude", "--prepare")

# What comes before a comment: quoted text, escaped characters, and any # that does not follow a space.
_BEFORE_COMMENT = re.compile(r"""(?:[^'"\\#]|(?<=\S)\#|'[^']*'|"(?:[^"\\]|\\.)*"|\\.)*""")
_OTHER: dict[RepoType, RepoType] = {"model": "dataset", "dataset": "model"}


@dataclass(frozen=True, slots=True)
class RepoRequest:
    """One repo to carry; `prepare` is a script as the list names it, `file` and `line` where it stands in a list."""

    repo_id: str
    repo_type: RepoType
    revision: str = DEFAULT_REVISION
    selection: Selection = NO_SELECTION
    prepare: str | None = None
    file: str | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class ListProblem:
    """A line that cannot be followed, why, and what to do."""

    file: str
    line: int
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class WishList:
    """What a list asks for, in its order, and what is wrong with its other lines."""

    entries: tuple[RepoRequest, ...]
    problems: tuple[ListProblem, ...]


def read_wishlist(path: Path, repo_type: RepoType) -> WishList:
    """Read a wish list; pages of the hub that HF_ENDPOINT names are known too.

    Raises UsageError if there is no such file or it is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"wish list {path}: {error.strerror}", hint="write one repo id a line into it") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: this is not UTF-8 text", hint="save the wish list as UTF-8") from error
    return parse_wishlist(text, str(path), repo_type, os.environ.get(ENDPOINT_VARIABLE))


def parse_wishlist(text: str, file: str, repo_type: RepoType, endpoint: str | None = None) -> WishList:
    """Read the text of a wish list of models or of datasets; a wrong line becomes a problem and stops no other.

    `endpoint` is the address of a hub besides the public one. A line whose image would get the same tag as that of an
    earlier line is a problem.
    """
    entries: dict[str, RepoRequest] = {}
    problems: list[ListProblem] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        try:
            words = _split(line)
            if not words:
                continue
            entry = _parse_entry(words, repo_type, endpoint, file, number)
            tag = tag_for(entry.repo_id, entry.revision)
            _check_new(entry, entries.get(tag))
            entries[tag] = entry
        except UsageError as error:
            problems.append(ListProblem(file, number, printable(error.message), error.hint))
    return WishList(tuple(entries.values()), tuple(problems))


def named_entries(
    words: Sequence[str], repo_type: RepoType, selection: Selection, prepare: str | None = None
) -> list[RepoRequest]:
    """Return entries for repos named on a command line, as a list's lines name them; raises UsageError."""
    endpoint, hint = os.environ.get(ENDPOINT_VARIABLE), f"add --type {_OTHER[repo_type]}"
    found = [parse_repo(word, repo_type, hint, endpoint) for word in words]
    return [RepoRequest(repo_id, repo_type, revision, selection, prepare) for repo_id, revision in found]


def _split(line: str) -> list[str]:
    """Return the words of a line without its comment."""
    code = _BEFORE_COMMENT.match(line)
    end = code.end() if code else 0
    try:
        return shlex.split(line[:end] if line[end : end + 1] == "#" else line)
    except ValueError as error:
        raise UsageError(
            "a quote or a backslash is not closed", hint="write a quote sign itself inside the other kind of quotes"
        ) from error


def _parse_entry(words: list[str], repo_type: RepoType, endpoint: str | None, file: str, line: int) -> RepoRequest:
    repo_id, revision = parse_repo(words[0], repo_type, f"move the line to the list of {_OTHER[repo_type]}s", endpoint)
    given: dict[str, list[str]] = {option: [] for option in OPTIONS}
    for option, value in _options(words[1:]):
        given[option].append(value)
    if len(given["--prepare"]) > 1:
        raise UsageError("--prepare is given twice", hint="one script prepares a repo; call the other from it")
    selection = Selection(tuple(given["--include"]), tuple(given["--exclude"]))
    prepare = next(iter(given["--prepare"]), None)
    return RepoRequest(repo_id, repo_type, revision, selection, prepare, file, line)


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            raise UsageError(
                f"{word!r} is one word too many", hint="one repo a line; repeat --include or --exclude before each glob"
            )
        if option not in OPTIONS:
            nearest = difflib.get_close_matches(option, OPTIONS, n=1, cutoff=0.0)[0]
            raise UsageError(f"{option!r} is not an option of a wish list", hint=f"did you mean {nearest}?")
        if not equals:
            value = next(rest, "")
            if value.startswith("--"):
                value = ""
        if not value:
            raise UsageError(
                f"{option} names nothing", hint=f"write {option} {'SCRIPT' if option == '--prepare' else 'GLOB'}"
            )
        yield option, value


def _check_new(entry: RepoRequest, earlier: RepoRequest | None) -> None:
    if earlier is None:
        return
    name = f"{entry.repo_id}@{entry.revision}"
    if (earlier.repo_id, earlier.revision) == (entry.repo_id, entry.revision):
        raise UsageError(
            f"{name} is on line {earlier.line} already", hint="put all its --include and --exclude on one line"
        )
    raise UsageError(
        f"{name} would get the same tag as {earlier.repo_id}@{earlier.revision} on line {earlier.line}",
        hint="name the commit instead",
    )
