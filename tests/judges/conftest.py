"""Current container tools in a Debian sid root (tools/judges), and Docker Engines of both image stores from there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.ferry import Port
from tests.support.process import Daemon, RigError

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# Tiny\n",
    "config.json": b"{}",
    "model.safetensors": os.urandom(20_000_000),
    "deep/ly/nested/file.bin": os.urandom(100_000),
}
TOOL = Path(__file__).parents[2] / "tools/judges"


@dataclass(frozen=True, slots=True)
class Judge:
    """Runs programs in the sid root; /tmp is shared with this machine."""

    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str | Path, check: bool = True) -> str:
        """Run a program and return its stdout; a failure shows all output."""
        home = {"HOME": "/root", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", **self.environment}
        done = subprocess.run(
            [TOOL, "run", *map(str, command)], capture_output=True, text=True, check=False, env=home, timeout=240
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout


@pytest.fixture(scope="session")
def judge() -> Judge:
    """The programs of the sid root."""
    if os.geteuid() != 0:
        raise RigError("tests/judges must run as root: they use mount namespaces")
    subprocess.run([TOOL, "setup"], check=True, stdout=subprocess.DEVNULL)
    return Judge()


@pytest.fixture
def carried(port: Port) -> str:
    """A carried image of FILES in a registry."""
    port.hub.add_repo("org/tiny", FILES, license="mit")
    [result] = port.results("org/tiny")
    return str(result["image"])


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that the programs of the sid root see under the same path; pytest's own may be elsewhere."""
    with tempfile.TemporaryDirectory(prefix="llmstack-judge-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session", params=["classic", "containerd"])
def docker(request: pytest.FixtureRequest, judge: Judge) -> Iterator[Judge]:
    """Current Docker with one of its two image stores, with loopback registries only."""
    folder = Path(tempfile.mkdtemp(prefix="llmstack-dockerd-", dir="/tmp"))
    host = f"unix://{folder}/docker.sock"
    daemon = Daemon(
        [
            *(
                str(TOOL),
                "run",
                "dockerd",
                f"--host={host}",
                f"--data-root={folder}/data",
                f"--exec-root={folder}/exec",
            ),
            *(f"--pidfile={folder}/docker.pid", "--bridge=none", "--iptables=false", "--ip6tables=false"),
            f"--feature=containerd-snapshotter={str(request.param == 'containerd').lower()}",
        ],
        folder / "log",
    )
    client = replace(judge, environment={"DOCKER_HOST": host})
    try:
        daemon.wait_until(lambda: "Server" in client.run("docker", "version", check=False))
        yield client
    finally:
        daemon.stop()
        shutil.rmtree(folder, ignore_errors=True)
