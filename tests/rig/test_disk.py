"""A disk that lost its power is unmounted before it is mounted again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.disk import FragileDisk, as_root
from tests.support.process import need

pytestmark = pytest.mark.system


def test_another_mount_namespace_does_not_keep_the_disk_mounted(tmp_path: Path):
    """A starting container has one for a moment."""
    with FragileDisk(tmp_path / "disk") as disk:
        (disk.folder / "kept").write_text("kept")
        disk.flush()
        view = [*as_root(), need("unshare", "util-linux"), "--mount", "--propagation", "private"]
        with subprocess.Popen([*view, "sh", "-c", "echo; sleep 1"], stdout=subprocess.PIPE) as other:
            assert other.stdout
            assert other.stdout.readline()
            disk.lose_power()
        assert (disk.folder / "kept").read_text() == "kept"
