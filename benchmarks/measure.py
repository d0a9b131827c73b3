"""Measure a command: wall time, peak memory of its largest process, and peak extra disk space."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: seconds; peak resident memory of the largest process; peak growth of the watched folders, in bytes."""

    seconds: float
    memory: int
    disk: int


def measure(command: Sequence[str], *, env: Mapping[str, str], watched: Iterable[Path] = ()) -> Measured:
    """Run a command; if it fails, exit with its output."""
    folders = list(watched)
    before = _used(folders)
    peak, stop = [before], threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            peak[0] = max(peak[0], _used(folders))

    watcher = threading.Thread(target=watch)
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        watcher.join()
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{command[0]} failed ({process.returncode}):\n{output.read().decode(errors='replace')}")
    return Measured(seconds, usage.ru_maxrss * 1024, max(0, max(peak[0], _used(folders)) - before))


def median(runs: Sequence[Measured]) -> Measured:
    """Return the median time of several runs, and the maximum of their memory and disk."""
    return Measured(
        statistics.median(run.seconds for run in runs), max(run.memory for run in runs), max(run.disk for run in runs)
    )


def _used(folders: Iterable[Path]) -> int:
    """Return the disk space of the files below `folders`, without files that are deleted meanwhile."""
    total = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    total += os.lstat(Path(root, name)).st_blocks * 512
                except OSError:
                    continue
    return total
