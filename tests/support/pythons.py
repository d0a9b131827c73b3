"""Virtual environments of other Python versions, for the packages of images."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import RigError

UV = Path(sysconfig.get_path("scripts")) / "uv"


def make_environment(folder: Path, python: str, environment: Mapping[str, str]) -> Path:
    """Create a virtual environment with that Python version, such as 3.8; return its folder.

    uv finds an installed Python or downloads one. It cannot run pyenv's shims, so pyenv's versions come first.
    """
    home = Path(environment.get("PYENV_ROOT") or Path(environment["HOME"]) / ".pyenv")
    found = sorted((home / "versions").glob(f"{python}.*/bin/python{python}"))
    done = run_uv("venv", "--quiet", "--python", str(found[-1] if found else python), str(folder), env=environment)
    if done.returncode:
        raise RigError(f"this test needs Python {python}, and uv cannot install it here:\n{done.stderr}")
    return folder


def run_uv(*arguments: str, env: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run uv with this machine's package index and certificates."""
    return subprocess.run([UV, *arguments], env=dict(env), input=stdin, capture_output=True, text=True, check=False)
