"""A fork of this repository: a remote, and the clone of a person who works on it."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Fork:
    """A bare `remote`, empty, and a clone of it (`person`) that holds this checkout's files, not yet committed."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.remote = folder / "remote.git"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", self.remote], check=True)
        self.person = folder / "person"
        subprocess.run(["git", "clone", "-q", self.remote, self.person], check=True)
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")
        self.git("checkout", "-q", "-b", "main")
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout
        for name in filter(None, tracked.decode().split("\0")):
            if (root / name).is_file():
                (self.person / name).parent.mkdir(parents=True, exist_ok=True)
                (self.person / name).write_bytes((root / name).read_bytes())
                (self.person / name).chmod((root / name).stat().st_mode)

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.person, check=True, capture_output=True, text=True).stdout
