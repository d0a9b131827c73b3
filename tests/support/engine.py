"""A Docker Engine for the tests: started by them as root, else the one that already runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import Daemon, RigError, need

DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class Engine:
    """A running Docker Engine; `host` is the value for DOCKER_HOST."""

    host: str

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker command with this engine; a failure shows its output."""
        environment = {**os.environ, "DOCKER_HOST": self.host}
        command = [need("docker", "docker.io"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(
                f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def answers(self) -> bool:
        return self.docker("version", "--format", "{{.Server.Version}}", check=False).returncode == 0


@contextlib.contextmanager
def docker_engine(folder: Path, environment: Mapping[str, str]) -> Iterator[Engine]:
    """Yield the first of: LLMSTACK_TEST_DOCKER_HOST, a running DOCKER_HOST, a new engine (as root), the default one.

    `environment` is the environment that pytest was started with. A new engine stores everything under `folder`, has
    only the host network (`--network host`), and does not change bridges or iptables.
    """
    named = environment.get("LLMSTACK_TEST_DOCKER_HOST")
    if named and not Engine(named).answers():
        raise RigError(f"LLMSTACK_TEST_DOCKER_HOST: no Docker Engine responds at {named}")
    running = named or environment.get("DOCKER_HOST")
    if running and Engine(running).answers():
        yield Engine(running)
        return
    if os.geteuid() != 0:
        if not Engine(DEFAULT_HOST).answers():
            raise RigError("no Docker Engine responds: start one, set DOCKER_HOST, or run the tests as root")
        yield Engine(DEFAULT_HOST)
        return
    with own_engine(folder) as engine:
        yield engine


@contextlib.contextmanager
def own_engine(folder: Path) -> Iterator[Engine]:
    """Start a Docker Engine that stores everything under `folder`; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(f"unix://{folder}/docker.sock")
    # Separate namespaces, because dockerd may use a containerd that other engines share.
    daemon = Daemon(
        [
            need("dockerd", "docker.io"),
            f"--host={engine.host}",
            f"--data-root={folder}/data",
            f"--exec-root={folder}/exec",
            f"--pidfile={folder}/docker.pid",
            "--containerd-namespace=llmstack-test",
            "--containerd-plugins-namespace=llmstack-test-plugins",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
        ],
        folder / "dockerd.log",
    )
    try:
        daemon.wait_until(engine.answers)
        yield engine
    finally:
        daemon.stop()
        _unmount_below(folder)
        shutil.rmtree(folder)


def _unmount_below(folder: Path) -> None:
    """Unmount file systems that an engine left mounted, for example after a crash."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)
