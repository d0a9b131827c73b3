"""Wish lists: one repo per line, with its options. People write them; llmstack only reads them.

A line is `repo_id`, `repo_id@revision` or the URL of a repo, then any of `--include GLOB`, `--exclude GLOB` (both
repeatable) and `--prepare SCRIPT` or `--prepare none`. Words are quoted as in a shell. `#` starts a comment at the
start of a line or after a space.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmstack.carried_image.naming import DEFAULT_REVISION, parse_repo, tag_for
from llmstack.carried_image.selection import NO_SELECTION, Selection
from llmstack.disk import exists
from llmstack.errors import UsageError, did_you_mean
from llmstack.hf.hub_urls import ENDPOINT_VARIABLE
from llmstack.hf.snapshot import RepoType
from llmstack.reporting.text import printable

OPTIONS = ("--include", "--exclude", "--prepare")
# `--prepare none`: carry the repo's files as they are, also where the lists have a default script.
NO_SCRIPT = "none"

# The text before a comment: quoted strings, escaped characters, and any # that does not follow a space.
_BEFORE_COMMENT = re.compile(r"""(?:[^'"\\#]|(?<=\S)\#|'[^']*'|"(?:[^"\\]|\\.)*"|\\.)*""")
_OTHER: dict[RepoType, RepoType] = {"model": "dataset", "dataset": "model"}


@dataclass(frozen=True, slots=True)
class RepoRequest:
    """A request to carry one repo; `file` and `line` are its position in a list.

    `prepare` is the path of a script, or NO_SCRIPT; None if neither is named. `path` is a local directory or file that
    is carried instead of the Hub's repo.
    """

    repo_id: str
    repo_type: RepoType
    revision: str = DEFAULT_REVISION
    selection: Selection = NO_SELECTION
    prepare: str | None = None
    file: str | None = None
    line: int = 0
    path: str | None = None


@dataclass(frozen=True, slots=True)
class ListProblem:
    """An invalid line of a wish list, and a hint."""

    file: str
    line: int
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class WishList:
    """The requests of a list, in order, and its invalid lines."""

    entries: tuple[RepoRequest, ...]
    problems: tuple[ListProblem, ...]


def with_default_script(wish_list: WishList, script: str) -> WishList:
    """Return the list with `script` for each entry that names none."""
    entries = tuple(entry if entry.prepare else replace(entry, prepare=script) for entry in wish_list.entries)
    return WishList(entries, wish_list.problems)


def read_wishlist(path: Path, repo_type: RepoType) -> WishList:
    """Read a wish list, with URLs of huggingface.co and of the hub in HF_ENDPOINT.

    Raises UsageError if the file does not exist or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"wish list {path}: {error.strerror}", hint="write one repo id per line into it") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8", hint="save the wish list as UTF-8") from error
    return parse_wishlist(text, str(path), repo_type, os.environ.get(ENDPOINT_VARIABLE))


def parse_wishlist(text: str, file: str, repo_type: RepoType, endpoint: str | None = None) -> WishList:
    """Parse a wish list of models or of datasets. An invalid line becomes a problem; the others are still parsed.

    `endpoint` is HF_ENDPOINT. A line whose image has the same tag as that of an earlier line is a problem.
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
    words: Sequence[str],
    repo_type: RepoType,
    selection: Selection,
    prepare: str | None = None,
    name: str | None = None,
) -> list[RepoRequest]:
    """Return requests for repos from the command line, written as in a list; raises UsageError.

    With `name` (`--as`), the only word is the path of a local directory or file to carry under that name.
    """
    if name is None:
        found = [_parse_word(word, repo_type) for word in words]
        return [RepoRequest(repo_id, repo_type, revision, selection, prepare) for repo_id, revision in found]
    if len(words) != 1 or prepare:
        problem = "cannot be combined with --prepare" if prepare else f"needs one directory or file, not {len(words)}"
        raise UsageError(f"--as {problem}", hint="for example: llmstack ferry ./tuned --as OWNER/NAME")
    repo_id, revision = _parse_word(name, repo_type)
    return [RepoRequest(repo_id, repo_type, revision, selection, path=words[0])]


def _parse_word(word: str, repo_type: RepoType) -> tuple[str, str]:
    try:
        return parse_repo(word, repo_type, f"add --type {_OTHER[repo_type]}", os.environ.get(ENDPOINT_VARIABLE))
    except UsageError as error:
        if exists(Path(word)):
            error.hint = f"to carry the local path {word}, add --as OWNER/NAME"
        raise


def _split(line: str) -> list[str]:
    """Return a line's words without its comment."""
    code = _BEFORE_COMMENT.match(line)
    end = code.end() if code else 0
    try:
        return shlex.split(line[:end] if line[end : end + 1] == "#" else line)
    except ValueError as error:
        raise UsageError(
            "unclosed quote or backslash", hint="put a quote character inside the other kind of quotes"
        ) from error


def _parse_entry(words: list[str], repo_type: RepoType, endpoint: str | None, file: str, line: int) -> RepoRequest:
    repo_id, revision = parse_repo(words[0], repo_type, f"move the line to the list of {_OTHER[repo_type]}s", endpoint)
    given: dict[str, list[str]] = {option: [] for option in OPTIONS}
    for option, value in _options(words[1:]):
        given[option].append(value)
    if len(given["--prepare"]) > 1:
        raise UsageError("--prepare is repeated", hint="call the second script from the first")
    selection = Selection(tuple(given["--include"]), tuple(given["--exclude"]))
    prepare = next(iter(given["--prepare"]), None)
    return RepoRequest(repo_id, repo_type, revision, selection, prepare, file, line)


def _options(words: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            raise UsageError(
                f"unexpected word {word!r}", hint="one repo per line; repeat --include or --exclude before each glob"
            )
        if option not in OPTIONS:
            raise UsageError(f"unknown option {option!r}", hint=did_you_mean(option, "options", OPTIONS))
        if not equals:
            value = next(rest, "")
            if value.startswith("--"):
                value = ""
        if not value:
            raise UsageError(
                f"{option} has no value", hint=f"write {option} {'SCRIPT' if option == '--prepare' else 'GLOB'}"
            )
        yield option, value


def _check_new(entry: RepoRequest, earlier: RepoRequest | None) -> None:
    if earlier is None:
        return
    name = f"{entry.repo_id}@{entry.revision}"
    if (earlier.repo_id, earlier.revision) == (entry.repo_id, entry.revision):
        raise UsageError(
            f"{name} is already on line {earlier.line}", hint="put all its --include and --exclude on one line"
        )
    raise UsageError(
        f"{name} has the same tag as {earlier.repo_id}@{earlier.revision} on line {earlier.line}",
        hint="name the commit instead",
    )


_SHARD = re.compile(r"([0-9]{1,4})/([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `number` of `count` of a wish list."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `I/N`; raises UsageError."""
        match = _SHARD.fullmatch(text)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise UsageError(
                f"--shard {text}: must be I/N, with I from 1 to N", hint="for three machines, use 1/3, 2/3 and 3/3"
            )
        return shard

    def select(self, wish_list: WishList) -> WishList:
        """Return this shard's entries; an entry's shard does not depend on other entries.

        The first shard has the invalid lines.
        """
        entries = tuple(entry for entry in wish_list.entries if self._contains(entry))
        return WishList(entries, wish_list.problems if self.number == 1 else ())

    def _contains(self, request: RepoRequest) -> bool:
        name = f"{request.repo_type}s/{request.repo_id}@{request.revision}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % self.count == self.number - 1
