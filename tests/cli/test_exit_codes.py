"""Stdout that takes nothing, or not every sign: how the command ends, and what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.support.carried import carry
from tests.support.cli import run_llmstack


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "carried"
    carry(Layout(folder / "models"), "org--model", {"config.json": b"{}"})
    return folder


def into(stdout, *arguments):
    """Run llmstack with this stdout and return its exit code and what it says on stderr."""
    command = [sys.executable, "-m", "llmstack", *arguments]
    # With a buffer, as people have it: what fits in there fails at the end alone.
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    home = os.environ["HOME"]
    done = subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, env=env, cwd=home, text=True, check=False, timeout=60
    )
    return done.returncode, done.stderr


def unread(*arguments):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        return into(stdout, *arguments)


def full(*arguments):
    with Path("/dev/full").open("wb") as stdout:
        return into(stdout, *arguments)


PRINTING = [["--version"], ["--help"], ["images"], ["images", "--json"]]
READING = [["list"], ["list", "--json"], ["inspect", "org/model"], ["verify", "org/model", "--json"]]


@pytest.mark.parametrize("arguments", PRINTING + READING, ids=" ".join)
def test_nobody_reads(carried, arguments):
    source = ["--from", f"oci:{carried}"] if arguments in READING else []
    assert unread(*arguments, *source) == (0, "")


def test_stdout_is_closed(tmp_path):
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "llmstack", "images"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", PRINTING + READING, ids=" ".join)
def test_a_full_disk(carried, arguments):
    source = ["--from", f"oci:{carried}"] if arguments in READING else []
    code, said = full(*arguments, *source)
    assert code == 6
    assert said.splitlines()[-1] == "error: stdout: No space left on device"
    assert "Traceback" not in said


@pytest.mark.parametrize(("stdout", "errors"), [(unread, 1), (full, 2)])
def test_what_failed_before_counts(tmp_path, stdout, errors):
    carry(Layout(tmp_path / "models"), "org--model", {"config.json": b"{}"})
    for blob in (tmp_path / "models/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes().replace(b"REPO/config.json", b"REPO/confih.json"))
    code, said = stdout("verify", "org/model", "--from", f"oci:{tmp_path}", "--json")
    assert code == 5
    assert said.count("error: ") == errors


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["latin-1", "ascii"],
)
def test_signs_that_stdout_does_not_have(tmp_path, env):
    carry(Layout(tmp_path / "models"), "org--model", {"模型.json": b"{}"})
    done = run_llmstack("inspect", "org/model", "--from", f"oci:{tmp_path}", env=env)
    assert (done.code, done.stderr) == (0, "")
    assert r"\u6a21\u578b.json" in done.stdout
    done = run_llmstack("images", env=env)
    assert (done.code, done.stderr) == (0, "")
