"""Exit codes and messages when stdout or stderr is closed, full, or of a limited encoding."""

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
    """Run llmstack with this stdout and return its exit code and its stderr."""
    command = [sys.executable, "-m", "llmstack", *arguments]
    # Buffered, as by default: small output fails at the end only.
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
def test_a_broken_pipe_is_no_error(carried, arguments):
    source = ["--from", f"oci:{carried}"] if arguments in READING else []
    assert unread(*arguments, *source) == (0, "")


@pytest.mark.parametrize("arguments", [["images"], ["inspect", "org/absent", "--from", "oci:absent"]], ids=" ".join)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_change_the_exit_code(tmp_path, arguments, closed):
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "llmstack", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == (0 if arguments == ["images"] else 3)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", PRINTING + READING, ids=" ".join)
def test_a_full_disk_is_an_error(carried, arguments):
    source = ["--from", f"oci:{carried}"] if arguments in READING else []
    code, said = full(*arguments, *source)
    assert code == 6
    assert said.splitlines()[-1] == "error: stdout: No space left on device"
    assert "Traceback" not in said


@pytest.mark.parametrize(("stdout", "errors"), [(unread, 1), (full, 2)])
def test_an_earlier_failure_keeps_its_exit_code(tmp_path, stdout, errors):
    carry(Layout(tmp_path / "models"), "org--model", {"config.json": b"{}"})
    for blob in (tmp_path / "models/blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes().replace(b"models/config.json", b"models/confih.json"))
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
def test_characters_that_stdout_cannot_encode_are_escaped(tmp_path, env):
    carry(Layout(tmp_path / "models"), "org--model", {"模型.json": b"{}"})
    done = run_llmstack("inspect", "org/model", "--from", f"oci:{tmp_path}", env=env)
    assert (done.code, done.stderr) == (0, "")
    assert r"\u6a21\u578b.json" in done.stdout
    done = run_llmstack("images", env=env)
    assert (done.code, done.stderr) == (0, "")


IN_DEL = """
import os, signal, sys, time
from llmstack.cli.runner import Invocation, run

class Signals:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

def command():
    Signals()
    time.sleep(60)

sys.exit(run(command, Invocation()))
"""


def test_a_signal_during_del_is_not_lost():
    done = subprocess.run([sys.executable, "-c", IN_DEL], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (143, "error: terminated\n  hint: rerun to resume\n")


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        (["ferry"], "[OPTIONS] [REPO_ID[@REVISION]|PATH]..."),
        (["extract"], "[OPTIONS] {REPO_ID[@REVISION]|IMAGE} [DEST]"),
        (["catalogue", "merge"], "[OPTIONS] {BASE} {OURS} {THEIRS}"),
    ],
)
def test_usage_marks_optional_arguments_once(command, usage):
    shown = run_llmstack(*command, "--help", env={"COLUMNS": "120"}).stdout
    assert [line.split() for line in shown.splitlines() if "Usage:" in line] == [
        ["Usage:", "llmstack", *command, *usage.split()]
    ]
