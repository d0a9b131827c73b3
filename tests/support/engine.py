"""A Docker engine for tests: one of their own where they may start one, else the one that already runs."""

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
    """A Docker engine that answers; `host` is what DOCKER_HOST is to be."""

    host: str

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker command against this engine; a failure shows what it printed."""
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
    """Give an engine: LLMSTACK_TEST_DOCKER_HOST; DOCKER_HOST, if it answers; as root one of our own; the default one.

    `environment` is what the tests were started with. Our own keeps everything under `folder`, gives containers no
    network but the host's (`--network host`), and leaves bridges and iptables alone.
    """
    named = environment.get("LLMSTACK_TEST_DOCKER_HOST")
    if named and not Engine(named).answers():
        raise RigError(f"LLMSTACK_TEST_DOCKER_HOST is {named}, but no Docker engine answers there")
    running = named or environment.get("DOCKER_HOST")
    if running and Engine(running).answers():
        yield Engine(running)
        return
    if os.geteuid() != 0:
        if not Engine(DEFAULT_HOST).answers():
            raise RigError("no Docker engine answers: start one, name it in DOCKER_HOST, or run the tests as root")
        yield Engine(DEFAULT_HOST)
        return
    with own_engine(folder) as engine:
        yield engine


@contextlib.contextmanager
def own_engine(folder: Path) -> Iterator[Engine]:
    """Start an engine that keeps everything under `folder`; only root can."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(f"unix://{folder}/docker.sock")
    # containerd's namespaces matter where dockerd finds a containerd that other engines use too.
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
    """Unmount what an engine that ended badly may have left mounted."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted(mounts, reverse=True):
        if Path(mount).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", mount], check=True)
