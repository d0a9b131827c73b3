"""Extract is killed, interrupted, out of disk space, or runs twice. No partial file is published; a rerun completes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.extraction.support import FILES, contents
from tests.support.carried import Limits, carry
from tests.support.cli import run_llmstack
from tests.support.disk import without_links
from tests.support.process import need

pytestmark = pytest.mark.slow

BIG = {f"{number}.bin": bytes([number]) * 3_000_000 for number in range(8)}
MANY = {f"{number:04}.txt": b"%d" % number * 500 for number in range(1500)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("carried")
    carry(Layout(folder / "models"), "org--model", {**FILES, **BIG, **MANY}, limits=Limits(large=1_000_000))
    return f"oci:{folder}"


def start(source: str, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "llmstack", "extract", "org/model", str(out), "--from", source, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_files(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Return when that many files exist, or the process has ended."""
    # os.walk ignores directories that disappear.
    while process.poll() is None and sum("." in name for *_, names in os.walk(out) for name in names) < count:
        pass


@pytest.mark.parametrize("count", [1, 40, 1500])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=["kill", "int", "term"])
def test_a_rerun_completes_an_extract_that_a_signal_ended(source, tmp_path, number, count):
    out = tmp_path / "out"
    expected = {**FILES, **BIG, **MANY}
    process = start(source, out)
    wait_for_files(out, count, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in {0, -number, 128 + number}
    assert "Traceback" not in err
    left = contents(out) if out.exists() else {}
    if process.returncode == -number and number != signal.SIGKILL:
        # After all work is done, Python removes its signal handlers; only then does the signal itself end the process.
        assert left == expected
    assert all(data == expected[path] for path, data in left.items() if not path.startswith(".llmstack-partial/"))
    again = run_llmstack("extract", "org/model", out, "--from", source, "--json")
    assert again.code == 0
    assert contents(out) == expected
    complete = [path for path in left if not path.startswith(".llmstack-partial/")]
    assert again.json["bytes_reused"] >= sum(len(expected[path]) for path in complete)


def test_one_of_two_concurrent_extracts_is_refused_or_finds_all_files_complete(source, tmp_path):
    out = tmp_path / "out"
    both = [start(source, out), start(source, out)]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in both]
    assert contents(out) == {**FILES, **BIG, **MANY}
    codes = sorted(code for _, code in ended)
    assert codes in ([0, 0], [0, 6])
    for err, code in ended:
        assert (code == 6) == ("another extract is running there" in err)


SMALL_DISK = """
mount -t tmpfs -o size=6m none "$1" || exit 99
shift
"$@"
code=$?
mount -o remount,size=64m "$DISK" && "$@" --json
echo "codes: $code $?"
"""


@pytest.mark.system
def test_a_disk_that_is_too_small_is_refused_before_writing(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = [need("unshare", "util-linux"), "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", str(disk)]
    command = [sys.executable, "-m", "llmstack", "extract", "org/model", str(disk), "--from", source]
    done = subprocess.run(
        [*unshare, *command], env={**os.environ, "DISK": str(disk)}, capture_output=True, text=True, check=False
    )
    assert "are needed" in done.stderr
    assert done.stdout.endswith("codes: 6 0\n")
    assert "Traceback" not in done.stderr


FULL = """
mount -t tmpfs -o size=100m,nr_inodes=300 none "$1" || exit 99
shift
"$@"
code=$?
mount -o remount,nr_inodes=10000 "$DISK" && "$@" > /dev/null
echo "codes: $code $?"
find "$DISK" -type f | wc -l
"""


@pytest.mark.system
def test_a_disk_that_fills_while_writing_is_resumed_after_space_is_freed(source, tmp_path):
    """The disk has space for the bytes but not enough inodes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = [need("unshare", "util-linux"), "--map-root-user", "--mount", "sh", "-c", FULL, "sh", str(disk)]
    command = [sys.executable, "-m", "llmstack", "extract", "org/model", str(disk), "--from", source]
    environment = {**os.environ, "DISK": str(disk)}
    done = subprocess.run([*unshare, *command], env=environment, capture_output=True, text=True, check=False)
    assert "the disk is full" in done.stderr
    assert done.stdout == f"codes: 6 0\n{len({**FILES, **BIG, **MANY})}\n"
    assert "Traceback" not in done.stderr


@pytest.mark.system
def test_a_read_only_destination_is_a_usage_error(source, tmp_path):
    script = 'mount -t tmpfs -o ro none "$1" && shift && "$@"'
    unshare = [need("unshare", "util-linux"), "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path)]
    command = [sys.executable, "-m", "llmstack", "extract", "org/model", str(tmp_path / "out"), "--from", source]
    done = subprocess.run([*unshare, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Read-only" in done.stderr


def test_a_file_system_without_symlinks_is_refused_before_a_cache_is_written(source, tmp_path):
    command = [sys.executable, "-m", "llmstack", "extract", "org/model", str(tmp_path / "out"), "--from", source]
    done = subprocess.run(
        without_links([*command, "--layout", "hf-cache"]), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "the file system does not support symbolic links" in done.stderr
    assert "use --layout dir" in done.stderr
    assert done.returncode == 2
    assert contents(tmp_path / "out") == {}
    subprocess.run(without_links(command), capture_output=True, check=True)
    assert contents(tmp_path / "out") == {**FILES, **BIG, **MANY}


def test_an_invalid_engine_socket_means_no_local_engine(tmp_path):
    done = run_llmstack("extract", "127.0.0.1:1/x:y", tmp_path / "out", env={"DOCKER_HOST": "unix:///" + "x" * 5000})
    assert done.code == 6
    assert "127.0.0.1:1/v2/: connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_not_running_is_named_in_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    done = run_llmstack("extract", "docker-daemon:org/model:x", tmp_path / "out")
    assert done.code == 6
    assert f"unix://{tmp_path}/none.sock" in done.stderr
    assert "DOCKER_HOST" in done.stderr
    assert "Traceback" not in done.stderr
