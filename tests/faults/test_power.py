"""Power failures at random moments, on a real file system: no complete result is lost, and the next run completes.

Unlike after a kill, the disk loses everything that the kernel had not written yet.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.faults.bench import QUICK, start
from tests.faults.cases import SEED, Case
from tests.faults.reading import placed
from tests.faults.stored import layout_files, layout_tags
from tests.support.carried import carry
from tests.support.cli import run_llmstack
from tests.support.disk import FragileDisk
from tests.support.hub import Hub

pytestmark = pytest.mark.system

MOMENTS = range(4)
_random = random.Random(SEED)
OLD = {"config.json": b"{}", "weights.bin": _random.randbytes(100_000)}
NEW = {
    **{f"small/{number:03}.json": b"%d" % number * 300 for number in range(200)},
    **{f"weights-{number}.bin": _random.randbytes(3_000_000) for number in range(8)},
}
Tell = Callable[[str, Case], None]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FragileDisk]:
    with FragileDisk(tmp_path / "disk") as disk:
        yield disk


def wait_for_first(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until extract has started its first file."""
    while process.poll() is None and not any(set(names) - {"lock"} for *_, names in os.walk(folder)):
        time.sleep(0.001)


def ferry(disk: FragileDisk) -> list[str]:
    return ["ferry", "org/tiny", "--to", f"oci:{disk.folder}/carried", "--base", "scratch"]


def carried_before(hub: Hub, disk: FragileDisk) -> bytes:
    """Ferry an old version, flush the disk, and return the catalogue."""
    (disk.folder / "work/get_hf").mkdir(parents=True)
    hub.add_repo("org/tiny", OLD)
    assert run_llmstack(*ferry(disk), cwd=disk.folder / "work").code == 0
    disk.flush()
    return (disk.folder / "work/get_hf/models.md").read_bytes()


@pytest.mark.parametrize("moment", MOMENTS)
def test_ferry_into_a_layout(disk: FragileDisk, hub: Hub, moment: int, tell: Tell):
    row = carried_before(hub, disk)
    layout, work = disk.folder / "carried/models", disk.folder / "work"
    before = layout_tags(layout)
    repo = hub.repos["model", "org/tiny"]
    repo.commit(NEW)
    with start(ferry(disk), QUICK, work) as process:
        while process.poll() is None and not list(layout.glob("blobs/sha256/.part-*")):
            time.sleep(0.001)
        time.sleep(random.Random(f"{SEED} {moment}").uniform(0, 0.5))
        disk.lose_power(process)
    found = layout_tags(layout)
    assert layout_files(layout, "org--tiny") == (OLD if found["org--tiny"] == before["org--tiny"] else {**OLD, **NEW})
    if "org--tiny--partial" in found:
        assert layout_files(layout, "org--tiny--partial").items() <= {**OLD, **NEW}.items()
    catalogue = (work / "get_hf/models.md").read_bytes()
    assert catalogue == row or repo.sha[:7].encode() in catalogue
    assert run_llmstack(*ferry(disk), cwd=work).code == 0
    assert layout_files(layout, "org--tiny") == {**OLD, **NEW}
    assert set(layout_tags(layout)) == {"org--tiny"}
    assert repo.sha[:7].encode() in (work / "get_hf/models.md").read_bytes()
    tell("ferry to a layout", Case(f"power-{moment}", "the machine", code=1))


def test_a_finished_ferry_survives_a_power_failure(disk: FragileDisk, hub: Hub, tell: Tell):
    carried_before(hub, disk)
    hub.repos["model", "org/tiny"].commit(NEW)
    assert run_llmstack(*ferry(disk), cwd=disk.folder / "work").code == 0
    disk.lose_power()
    assert layout_files(disk.folder / "carried/models", "org--tiny") == {**OLD, **NEW}
    tell("ferry to a layout", Case("power", "the machine"))


@pytest.mark.parametrize("verb", ["dir", "hf-cache"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_extract(disk: FragileDisk, tmp_path: Path, verb: str, moment: int, tell: Tell):
    carry(Layout(tmp_path / "carried/models"), "org--model", NEW)
    out = disk.folder / "out"
    command = ["extract", "org/model", str(out), "--layout", verb, "--from", f"oci:{tmp_path}/carried"]
    with start(command, QUICK, tmp_path) as process:
        wait_for_first(out, process)
        time.sleep(random.Random(f"{SEED} {verb} {moment}").uniform(0, 0.25))
        disk.lose_power(process)
    assert run_llmstack(*command).code == 0
    assert placed(out, verb) == NEW
    assert not list(out.rglob(".llmstack-partial"))
    word = "a folder" if verb == "dir" else "a cache"
    tell(f"extract to {word}", Case(f"power-{moment}", "the machine", code=1))
