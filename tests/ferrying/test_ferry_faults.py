"""`llmstack ferry` with faults: a complete image or no tag, and a rerun that completes it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ferry import MiB, Port, wait_until
from tests.support.process import need

WEIGHTS = random.Random(11).randbytes(3 * MiB)
FILES = {"config.json": b"{}", "weights.bin": WEIGHTS}
PEAK_MEMORY = 150 * MiB
# Prints its child's peak memory in KiB. Linux counts the memory before exec, too, and that would be pytest's.
LAUNCHER = """
import os, sys
_, status, usage = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_repeated_connection_drops(port: Port):
    port.hub.add_repo("org/tiny", FILES)
    for cut in random.Random(5).sample(range(1, len(WEIGHTS)), 6):
        port.hub.fault("*/weights.bin", drop_after=cut)
    port.hub.fault("*/weights.bin", host="cdn", drop_after=1000, expire=True)
    port.hub.fault("*/config.json", status=503)
    (result,) = port.results("org/tiny")
    assert result["status"] == "carried"
    assert port.files("org--tiny") == FILES


@pytest.mark.parametrize("fault", [{"corrupt_at": 2_000_000}, {"truncate_to": 2_000_000}])
def test_wrong_bytes_are_not_committed(port: Port, fault: dict[str, int]):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", times=None, **fault)
    run = port.ferry("org/tiny")
    assert run.code == 5
    assert "error: org/tiny: source: " in run.stderr
    assert "weights.bin" in run.stderr
    assert port.tags() == []
    assert port.uploads() == []
    # The bundle with those bytes would have been a blob of more than three megabytes.
    assert not [blob for blob in (port.repository() / "_layers/sha256").glob("*") if _size(port, blob.name) > 2 * MiB]
    port.hub.faults.clear()
    assert port.results("org/tiny")[0]["status"] == "carried"
    assert port.files("org--tiny") == FILES


def _size(port: Port, digest: str) -> int:
    return port.registry.blob_file(f"sha256:{digest}").stat().st_size


def test_a_failed_layer_cancels_the_others(port: Port):
    """The next repo is ferried with the same client."""
    large = {f"model-{number}.bin": bytes([number]) * (17 * MiB) for number in range(3)}
    port.hub.add_repo("org/large", large)
    port.hub.add_repo("org/tiny", {"config.json": b"{}"})
    port.hub.fault("*/model-0.bin", corrupt_at=3)
    for number in (1, 2):
        port.hub.fault(f"*/model-{number}.bin", host="cdn", bytes_per_second=2 * MiB, times=None)
    run = port.ferry("org/large", "org/tiny", "--json")
    assert run.code == 1
    assert [result["status"] for result in run.json["results"]] == ["failed", "carried"]
    assert "model-0.bin" in run.json["results"][0]["error"]
    assert port.uploads() == []
    assert port.tags() == ["org--tiny"]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_cancel_uploads(port: Port, number: signal.Signals, code: int, word: str):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", host="cdn", stall_after=MiB, times=None)
    with port.start("org/tiny", "--progress", "plain") as process:
        wait_until(lambda: any(path.stat().st_size > 300_000 for path in port.uploads()), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"error: {word}\n  hint: " in err
    assert "Traceback" not in err
    assert out == ""
    assert port.tags() == []
    assert port.uploads() == []
    port.hub.faults.clear()
    assert port.results("org/tiny")[0]["status"] == "carried"
    assert port.files("org--tiny") == FILES


def test_an_interrupt_does_not_wait_for_a_silent_hub(port: Port):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", host="cdn", stall_after=MiB, times=None)
    with port.start("org/tiny") as process:
        wait_until(lambda: any(path.stat().st_size > 300_000 for path in port.uploads()), process)
        process.send_signal(signal.SIGINT)
        # Far less than the timeout of a read.
        assert process.wait(20) == 130
        assert "Traceback" not in process.communicate()[1]
    assert port.tags() == []
    assert port.uploads() == []


def test_signals_leave_no_temporary_file_in_a_layout(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", host="cdn", stall_after=MiB, times=None)
    blobs = tmp_path / "carried/models/blobs/sha256"
    with port.start("org/tiny", "--to", f"oci:{tmp_path / 'carried'}") as process:
        wait_until(lambda: any(path.stat().st_size > 300_000 for path in blobs.glob(".part-*")), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        process.communicate()
    assert not list(blobs.glob(".part-*"))
    assert not (tmp_path / "carried/models/index.json").exists()


def test_a_killed_run_leaves_no_tag_and_the_next_run_completes(port: Port, tmp_path: Path):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", host="cdn", stall_after=MiB, times=None)
    target = tmp_path / "carried"
    blobs = target / "models/blobs/sha256"
    with port.start("org/tiny", "--to", f"oci:{target}") as process:
        wait_until(lambda: any(path.stat().st_size > 300_000 for path in blobs.glob(".part-*")), process)
        process.kill()
        process.communicate()
    assert len(list(blobs.glob(".part-*"))) >= 1
    port.hub.faults.clear()
    assert port.results("org/tiny", "--to", f"oci:{target}")[0]["status"] == "carried"
    assert not list(blobs.glob(".part-*"))


def test_two_concurrent_runs_of_one_repo(port: Port):
    port.hub.add_repo("org/tiny", FILES)
    processes = [port.start("org/tiny", "--quiet") for _ in range(2)]
    assert [process.communicate(timeout=120) for process in processes] == [("", "")] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert port.results("org/tiny")[0]["status"] == "up-to-date"
    assert port.files("org--tiny") == FILES


def test_a_large_file_needs_little_memory_and_no_file_of_its_own(port: Port, tmp_path: Path):
    """Home and temporary directory do not exist, and the working directory stays empty."""
    weights = tmp_path / "weights.bin"
    with weights.open("wb") as file:
        file.truncate(300 * MiB)
    port.hub.add_repo("org/large", {"weights.bin": weights, **{f"f{n}": b"%d" % n * 9000 for n in range(300)}})
    env = {"TMPDIR": "/nonexistent", "HOME": "/nonexistent", "HF_HOME": "/nonexistent"}
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "llmstack", *port.command("org/large", "--quiet")]
    done = subprocess.run(
        command, cwd=port.folder, env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert int(done.stdout) * 1024 < PEAK_MEMORY
    assert list(port.folder.iterdir()) == []
    assert not Path("/nonexistent").exists()
    assert port.tags() == ["org--large"]


def test_the_token_is_not_in_the_process_list(port: Port):
    port.hub.add_repo("org/tiny", FILES)
    port.hub.fault("*/weights.bin", host="cdn", stall_after=MiB, times=None)
    token = port.hub.add_token("hf_s3cr3tT0kenOfTheTest", access={"org/tiny"})
    with port.start("org/tiny", env={"HF_TOKEN": token}) as process:
        wait_until(lambda: port.hub.log.files("*/weights.bin"), process)
        listed = subprocess.run([need("ps", "procps"), "-ef"], check=True, capture_output=True, text=True).stdout
        process.kill()
        process.communicate()
    assert str(process.pid) in listed
    assert token not in listed
