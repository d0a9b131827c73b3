"""A fork of this repository: a remote, and a developer's clone."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Fork:
    """An empty bare `remote`, and a `clone` of it with this checkout's files, not committed."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", self.remote], check=True)
        self.clone = folder / "person"
        subprocess.run(["git", "clone", "-q", self.remote, self.clone], check=True)
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.git("checkout", "-q", "-b", "main")
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            if (root / name).is_file():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                (self.clone / name).write_bytes((root / name).read_bytes())
                (self.clone / name).chmod((root / name).stat().st_mode)

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.clone, check=True, capture_output=True, text=True).stdout
