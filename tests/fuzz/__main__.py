"""Coverage-guided fuzzing of everything that reads untrusted bytes (`make fuzz`).

    python -m tests.fuzz --seconds 60               all targets, a minute each, one per CPU at a time
    python -m tests.fuzz layer --seconds 3600       one target
    python -m tests.fuzz layer --again FILE         repeat a finding

A finding is an exception other than LlmstackError, an input that takes more than 10 seconds or more than 512 MB.
Findings are written to `.fuzz/`. Needs the dependency group `fuzz`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds

SLOW_SECONDS = 10
MEMORY_MB = 512
LONGEST_INPUT = 16 * 1024
# The limit of http.client for one line.
LONGEST_HEADER = 64 * 1024
_KEPT = Path(".fuzz")


def main() -> int:
    """Fuzz; return 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="*", help=f"{', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="seconds per target (default: 60)")
    parser.add_argument("--again", type=Path, help="run one target with this file only")
    options = parser.parse_args()
    if unknown := set(options.target) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.again:
        TARGETS[options.target[0]](options.again.read_bytes())
        return 0
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        good = list(workers.map(lambda name: _fuzz(name, options.seconds), options.target or TARGETS))
    return int(not all(good))


def _fuzz(name: str, seconds: int) -> bool:
    """Fuzz a target in another process; tell whether there are no findings."""
    with tempfile.TemporaryDirectory(prefix=f"llmstack-fuzz-{name}-") as folder:
        corpus = Path(folder)
        for number, seed in enumerate(seeds(name)):
            (corpus / f"seed-{number:03}").write_bytes(seed)
        limits = [
            f"-max_total_time={seconds}",
            f"-timeout={SLOW_SECONDS}",
            f"-rss_limit_mb={MEMORY_MB}",
            f"-max_len={LONGEST_HEADER if name == 'headers' else LONGEST_INPUT}",
            "-print_final_stats=1",
        ]
        _KEPT.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", name, folder, *limits, f"-artifact_prefix={_KEPT}/{name}-"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    lines = (done.stdout + done.stderr).splitlines()
    runs = next((line.rpartition(" ")[2] for line in lines if "number_of_executed_units" in line), "no")
    print(f"{name}: {runs} inputs, {'no findings' if done.returncode == 0 else 'FINDING:'}", flush=True)
    if done.returncode:
        print("\n".join(lines[-60:]), flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
