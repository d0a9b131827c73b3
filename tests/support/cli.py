"""Run llmstack as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 240


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run of llmstack."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)


def run_llmstack(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    timeout: float = TIMEOUT,
) -> Run:
    """Run `llmstack ARGUMENTS` to its end, with `env` on top of this process's environment.

    It runs in the home folder where `cwd` is not given: in the checkout it would write into the catalogue there.
    """
    done = subprocess.run(
        [sys.executable, "-m", "llmstack", *map(str, arguments)],
        env={**os.environ, **(env or {})},
        cwd=cwd or os.environ["HOME"],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)
