"""What `.gitignore` files leave out, with git's meaning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pathspec import GitIgnoreSpec


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The patterns of the `.gitignore` files from the carried directory down to one directory, the deepest first.

    They assume that nothing is asked about the content of an ignored directory: git cannot include it again.
    """

    specs: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def with_file(self, directory: str, content: bytes) -> IgnoreRules:
        """Return the rules with those of a `.gitignore`; `directory` is empty or ends with a slash."""
        lines = content.decode(errors="surrogateescape").removeprefix("\ufeff").split("\n")
        return IgnoreRules(((directory, _parse(line.removesuffix("\r") for line in lines)), *self.specs))

    def ignores(self, path: str, *, is_directory: bool) -> bool:
        """Tell whether a path in the carried directory is ignored: the last pattern of the deepest file decides."""
        for directory, spec in self.specs:
            decision = spec.check_file(path.removeprefix(directory) + ("/" if is_directory else "")).include
            if decision is not None:
                return decision
        return False


def _parse(lines: Iterable[str]) -> GitIgnoreSpec:
    patterns = []
    for line in lines:
        # git: `dir/**` means everything inside, and not the directory itself.
        pattern = f"{line.rstrip()}/*" if line.rstrip().endswith("/**") else line
        try:
            GitIgnoreSpec.from_lines([pattern])
        except ValueError:
            # Git takes an invalid pattern as one that matches nothing.
            continue
        patterns.append(pattern)
    return GitIgnoreSpec.from_lines(patterns)
