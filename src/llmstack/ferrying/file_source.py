"""Where a repo's files come from: the hub itself, or what a script has prepared from it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot


class FileSource(Protocol):
    """Names a commit, lists its files, and gives their bytes; methods may be called from any thread."""

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Resolve a revision to its commit; raises what LlmstackError there is to it."""

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """List the files of a commit, with the hashes that their bytes must have."""

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`, not verified: whoever joins them hashes the whole."""
