"""Names that differ only in case, on file systems with and without case sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.extraction.support import RecordingReporter, contents, run
from tests.support.carried import carry
from tests.support.disk import folding_disk
from tests.support.layers import file, image, tar

FILES = {"README": b"upper", "readme": b"lower", "config.json": b"{}"}


def carried(folder: Path) -> str:
    carry(Layout(folder), "t", FILES)
    return f"oci:{folder}:t"


def foreign(folder: Path) -> str:
    return image(folder, tar(*(file(f"REPO/{name}", data) for name, data in FILES.items())))


@pytest.mark.system
@pytest.mark.parametrize("make", [carried, foreign])
def test_names_that_differ_only_in_case_warn_on_a_file_system_that_ignores_case(
    tmp_path: Path, make: Callable[[Path], str]
):
    name = make(tmp_path / "image")
    reporter = RecordingReporter()
    run(name, tmp_path / "out", reporter=reporter)
    assert (contents(tmp_path / "out"), reporter.warnings) == (FILES, [])
    with folding_disk(tmp_path / "ntfs") as disk:
        run(name, disk / "out", reporter=reporter)
        left = sorted(path.name for path in (disk / "out").iterdir())
    (warning,) = reporter.warnings
    assert "'README'" in warning
    assert "'readme'" in warning
    assert left == ["config.json", "readme"]
