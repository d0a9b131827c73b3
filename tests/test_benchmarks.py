"""The benchmark of the README's figures, at a small size that checks only the benchmark itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def test_carry(engine):  # noqa: ARG001 - DOCKER_HOST names it
    command = [sys.executable, "-m", "benchmarks.carry", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = {table.splitlines()[0]: table for table in done.stdout.split("\n### ")[1:]}
    assert len(tables) == 4
    for title, table in tables.items():
        verb, by_hand = ("ferry", "docker push") if title.startswith("ferry") else ("extract", "docker cp")
        assert f"| llmstack {verb} |" in table
        assert by_hand in table
        assert ("curl" in table) == ("MB" in title)


def test_links(registry):  # noqa: ARG001 - the benchmark starts its own; `make test-unit` leaves this test out
    command = [sys.executable, "-m", "benchmarks.links", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[2:]
    assert [row.partition(" file")[0] for row in rows] == [
        "| ferry a",
        "| extract a",
        "| ferry small",
        "| ferry one large",
        "| extract one large",
        "| extract four large",
    ]
