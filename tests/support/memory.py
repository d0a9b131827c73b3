"""Measures the peak memory of the llmstack command, as the kernel counts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import Run

# The peak of a process starts at the size of its parent. So a small process starts the command.
_LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as report:
    report.write(f"[{os.waitstatus_to_exitcode(status)}, {usage.ru_maxrss * 1024}]")
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A run of llmstack with its duration, and its peak memory in bytes."""

    run: Run
    seconds: float
    memory: int


def measure_llmstack(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 240
) -> Measured:
    """Run `llmstack ARGUMENTS` as run_llmstack does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(report)]
        began = time.monotonic()
        done = subprocess.run(
            [*launcher, sys.executable, "-m", "llmstack", *map(str, arguments)],
            env={**os.environ, **(env or {})},
            cwd=cwd or os.environ["HOME"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        code, memory = json.loads(report.read_text())
        return Measured(Run(code, done.stdout, done.stderr), time.monotonic() - began, memory)
