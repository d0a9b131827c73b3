"""Parallel work ends after a signal, at whatever moment it comes."""

from __future__ import annotations

import subprocess
import sys

ROUNDS = 1000


def test_a_signal_at_a_random_moment_ends_the_work():
    command = [sys.executable, "-m", "tests.net.interrupted_work", str(ROUNDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{ROUNDS}\n"), done.stderr[-2000:]
