"""What `.gitignore` files leave out, with git's meaning."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from dataclasses import dataclass

from pathspec import GitIgnoreSpec
from pathspec.pattern import Pattern, RegexPattern

# The group of pathspec's regular expressions with the slash after the directory that a pattern matches.
_SLASH = "ps_d"


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The patterns of the `.gitignore` files from the carried directory down to one directory, the deepest first.

    They assume that nothing is asked about the content of an ignored directory: git cannot include it again.
    """

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def with_file(self, directory: str, content: bytes) -> IgnoreRules:
        """Return the rules with those of a `.gitignore`; `directory` is empty or ends with a slash."""
        lines = _bytewise(content.removeprefix(codecs.BOM_UTF8)).split("\n")
        return IgnoreRules(((directory, _parse(line.removesuffix("\r") for line in lines)), *self.specs))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether a path in the carried directory is ignored: the last pattern of the deepest file decides."""
        for directory, spec in self.specs:
            name = _bytewise(os.fsencode(path.removeprefix(directory))) + ("/" if is_directory else "")
            decision = next((each.include for each in reversed(spec.patterns) if _matches(each, name)), None)
            if decision is not None:
                return decision
        return False


def _bytewise(text: bytes) -> str:
    """Return a string with one character per byte: for git, `?` is a byte."""
    return text.decode("latin-1")


def _matches(pattern: Pattern, name: str) -> bool:
    """Tell whether a pattern matches a name itself; a directory's name ends with a slash.

    The library's patterns also match what is in a matching directory, and its own order among them is not always git's:
    in `a/b/c/` and then `!a/b/`, the second one says nothing about `a/b/c`.
    """
    regex = pattern.regex if isinstance(pattern, RegexPattern) else None
    if regex is None:
        return False
    if _SLASH not in regex.groupindex:
        return regex.search(name) is not None
    return any(found.start(_SLASH) in {-1, len(name) - 1} for found in regex.finditer(name))


def _parse(lines: Iterable[str]) -> GitIgnoreSpec:
    patterns = []
    for line in lines:
        # git: `dir/**` means everything inside, `dir/**/` all directories inside, and not the directory itself.
        stripped = line.rstrip()
        inside = {"/**": "/*", "/**/": "*/"}
        pattern = next((stripped + more for end, more in inside.items() if stripped.endswith(end)), line)
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError:
            # Git takes an invalid pattern as one that matches nothing.
            continue
        patterns.append(pattern)
    return GitIgnoreSpec.from_lines(patterns)
