"""Hugging Face's JavaScript packages from npm, and programs that use them in node."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

from tests.support.process import RigError, need
from tests.support.serving import CACHE, run_program

HUB = ("@huggingface/hub@2.17.5", "@huggingface/gguf@0.4.6")
TRANSFORMERS = ("@huggingface/transformers@4.3.1",)


def install_npm(name: str, *packages: str) -> Path:
    """Return a folder with these packages in node_modules; install them if it does not exist."""
    folder = CACHE / f"npm-{name}"
    if not folder.exists():
        part = CACHE / f"part-{uuid.uuid4().hex}"
        part.mkdir(parents=True)
        (part / "package.json").write_text("{}")
        command = [need("npm", "npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
        done = subprocess.run(command, cwd=part, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            raise RigError(f"{packages}: npm failed:\n{done.stderr[-2000:]}")
        try:
            part.rename(folder)
        except OSError:
            # Another test process was faster.
            shutil.rmtree(part)
    return folder


def run_node(packages: Path, code: str, home: Path, *arguments: str) -> str:
    """Run a module with these packages, in an empty home; return its output."""
    home.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "HF_HOME": str(home), "HOME": str(home), "NODE_NO_WARNINGS": "1"}
    command = [need("node", "nodejs"), "--input-type=module", "-e", code, "--", *arguments]
    return run_program(command, packages, env)
