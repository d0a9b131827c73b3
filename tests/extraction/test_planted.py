"""Files that others left in the destination do not become, or receive, what extract writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstack.errors import UsageError
from llmstack.extraction.destination import WORK_DIRECTORY
from llmstack.oci.layout import Layout
from tests.extraction.support import contents, run
from tests.resume.support import Stopped, StoppingReporter
from tests.support.carried import carry

FILES = {"model.bin": b"weights" * 50_000}
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can create files of other users")


@pytest.fixture
def source(tmp_path: Path) -> str:
    carry(Layout(tmp_path / "carried/models"), "org--model", FILES)
    return f"oci:{tmp_path}/carried"


@pytest.fixture
def out(tmp_path: Path, source: str) -> Path:
    """A destination in which a run was interrupted after the first bytes."""
    with pytest.raises(Stopped):
        run("org/model", tmp_path / "out", source=source, reporter=StoppingReporter(0))
    return tmp_path / "out"


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parents[2] / "precious")


def hard_link(path: Path) -> None:
    path.unlink()
    path.hardlink_to(path.parents[2] / "precious")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def mode(path: Path) -> None:
    path.chmod(0o666)


def owner(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    "plant", [link, hard_link, fifo, mode, pytest.param(owner, marks=[pytest.mark.system, as_root])]
)
def test_a_planted_partial_file_is_replaced(source: str, out: Path, plant: Callable[[Path], None]):
    precious = out.parent / "precious"
    precious.write_bytes(b"precious")
    (part,) = (out / WORK_DIRECTORY).glob("*.part")
    plant(part)
    run("org/model", out, source=source)
    assert contents(out) == FILES
    assert precious.read_bytes() == b"precious"
    info = (out / "model.bin").stat()
    assert (info.st_uid, info.st_nlink) == (os.geteuid(), 1)
    assert info.st_mode & 0o777 == 0o666 & ~umask()


@pytest.mark.system
@as_root
def test_a_work_directory_of_another_user_is_refused(source: str, out: Path):
    os.chown(out / WORK_DIRECTORY, NOBODY, NOBODY)
    with pytest.raises(UsageError, match="belongs to another user"):
        run("org/model", out, source=source)


@pytest.mark.system
@as_root
def test_root_may_resume_in_a_directory_of_another_user(source: str, out: Path):
    for path in (out, out / WORK_DIRECTORY, *(out / WORK_DIRECTORY).iterdir()):
        os.chown(path, NOBODY, NOBODY)
    run("org/model", out, source=source)
    assert (out / "model.bin").stat().st_uid == 0


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old
