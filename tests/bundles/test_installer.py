"""save --with-llmstack: llmstack from the disk alone, and a file without llmstack, as the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmstack.bundles.installer import FOLDER
from tests.bundles.support import FILES, Gap
from tests.support.cli import run_llmstack
from tests.support.process import need

pytestmark = [pytest.mark.slow, pytest.mark.system]


def blocks(folder: Path, language: str) -> list[str]:
    """Return the commands of the README."""
    return re.findall(r"```sh\n(.*?)```", (folder / f"README{language}.md").read_text(), re.DOTALL)


def without_network(script: str, folder: Path, home: Path, **variables: str) -> str:
    """Run a script as on a host without a network, with Python and nothing else."""
    command = [need("unshare", "util-linux"), "--net", "bash", "-euc", script]
    # The packages of the tests are not there.
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": path, "HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def pip_variables(started_with: Mapping[str, str]) -> dict[str, str]:
    """The configuration of pip of this machine, for the side with a network."""
    names = ("PIP_", "SSL_CERT", "REQUESTS_CA", "HTTP", "http", "NO_PROXY", "no_proxy", "XDG_CONFIG")
    found = {name: value for name, value in started_with.items() if name.startswith(names)}
    config = Path(started_with.get("HOME", "/"), ".config/pip/pip.conf")
    return {**found, **({"PIP_CONFIG_FILE": str(config)} if config.exists() and "PIP_CONFIG_FILE" not in found else {})}


def test_the_isolated_side_needs_python_only(gap: Gap, pip_variables: dict[str, str], tmp_path: Path):
    gap.carry()
    command = ("save", "--all", "--from", "oci:near", "--to", "disk", "--with-llmstack")
    done = run_llmstack(*command, env=pip_variables, cwd=gap.folder)
    assert done.code == 0, done.stderr
    folder = gap.folder / "disk" / FOLDER
    installing, loading, *_ = blocks(folder, "")
    assert blocks(folder, "") == blocks(folder, ".zh-CN")
    home = tmp_path / "home"
    home.mkdir()
    without_network(installing, folder, home)
    load = loading.replace("registry.inside:5000/llm", f"oci:{home}/far").replace("OWNER/NAME", "org/model")
    without_network(load.replace("./NAME", str(home / "out")), folder, home)
    assert {path.name: path.read_bytes() for path in (home / "out").iterdir()} == FILES
    again = run_llmstack(*command, env=pip_variables, cwd=gap.folder)
    assert again.code == 0, again.stderr
    assert "up-to-date" in again.stdout


@pytest.mark.parametrize("options", [[], ["--volume-size", "1MB"]], ids=["one", "volumes"])
def test_a_file_can_be_taken_out_without_python(gap: Gap, options: list[str], tmp_path: Path):
    gap.carry()
    done = run_llmstack("save", "--all", "--from", "oci:near", "--to", "disk", *options, cwd=gap.folder)
    assert done.code == 0, done.stderr
    texts = Path(sys.modules["llmstack.bundles.installer"].__file__ or "").with_name("installer_texts")
    checking, taking = blocks(texts, "")[2:]
    disk = gap.folder / "disk"
    work = tmp_path / "work"
    work.mkdir()
    for volume in sorted(path.parent for path in disk.rglob("SHA256SUMS")):
        without_network(checking.replace("BUNDLE", str(volume)), work, work)
    for name, content in FILES.items():
        without_network(taking.replace("FILE=config.json", f"FILE={name}"), work, work, BUNDLE=str(disk))
        assert {(work / root / name).read_bytes() for root in ("models", "REPO")} == {content}


def test_options_of_the_host_need_the_wheels(gap: Gap):
    gap.carry()
    done = run_llmstack("save", "--all", "--from", "oci:near", "--to", "disk", "--python", "3.12", cwd=gap.folder)
    assert done.code == 2
    assert "--python and --platform require --with-llmstack" in done.stderr
    assert not (gap.folder / "disk").exists()
