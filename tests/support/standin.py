"""A Debian base image made on this machine, and containers in a network without internet access."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.engine import Engine
from tests.support.process import RigError, need

SUITE = "bookworm"
DEBIAN = f"llmstack-test-debian:{SUITE}"
# Ignored by git; the next run reuses it.
CACHE = Path(__file__).parents[2] / ".rig" / f"debian-{SUITE}-slim.tar"
EXCLUDED = ("./dev/*", "./var/cache/apt/archives/*.deb", "./var/lib/apt/lists/*", "./etc/resolv.conf")
# As in Docker Hub's image: no fsync per file, no translations, no manuals.
CONFIGURED = {
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": "force-unsafe-io\n",
    "etc/dpkg/dpkg.cfg.d/docker": "path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n",
    "etc/apt/apt.conf.d/docker-no-languages": 'Acquire::Languages "none";\n',
}
READY_TIMEOUT = 300.0


def import_debian(engine: Engine) -> str:
    """Import a minimal Debian, like Docker Hub's slim image, into the engine; return its name."""
    if engine.docker("image", "inspect", DEBIAN, check=False).returncode:
        engine.docker("import", str(_debian_tar()), DEBIAN)
    return DEBIAN


def _debian_tar() -> Path:
    if not CACHE.exists():
        CACHE.parent.mkdir(exist_ok=True)
        root, part = CACHE.parent / f"root-{uuid.uuid4().hex}", CACHE.with_suffix(f".{uuid.uuid4().hex}")
        try:
            _run([need("debootstrap", "debootstrap"), "--variant=minbase", SUITE, str(root)])
            for name, text in CONFIGURED.items():
                (root / name).write_text(text)
            _run(["tar", "-C", str(root), *(f"--exclude={path}" for path in EXCLUDED), "-cf", str(part), "."])
            part.rename(CACHE)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            part.unlink(missing_ok=True)
    return CACHE


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"{command[0]}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `ip` is its address in the internal network."""

    engine: Engine
    name: str

    @property
    def state(self) -> dict[str, Any]:
        inspected: dict[str, Any] = self.inspect()["State"]
        return inspected

    @property
    def ip(self) -> str:
        networks = self.inspect()["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    @property
    def logs(self) -> str:
        done = self.engine.docker("logs", self.name)
        return done.stdout + done.stderr

    def inspect(self) -> dict[str, Any]:
        [value] = json.loads(self.engine.docker("container", "inspect", self.name).stdout)
        assert isinstance(value, dict)
        return value

    def exec(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return self.engine.docker("exec", self.name, *command, check=check)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True; fail with the log if the container exits first."""
        deadline = time.monotonic() + READY_TIMEOUT
        while not ready():
            if self.state["Status"] == "exited" or time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is {self.state['Status']} and not ready:\n{self.logs}")
            time.sleep(0.2)

    def wait_healthy(self) -> None:
        """Wait until the image's health check passes."""
        self.wait(lambda: self.state["Health"]["Status"] == "healthy")

    def wait_ended(self) -> int:
        """Wait until the container exits; return its exit code."""
        return int(self.engine.docker("wait", self.name).stdout)


@contextlib.contextmanager
def closed_network(engine: Engine) -> Iterator[str]:
    """Create an internal network, without internet access."""
    name = f"llmstack-test-{uuid.uuid4().hex[:12]}"
    engine.docker("network", "create", "--internal", name)
    try:
        yield name
    finally:
        engine.docker("network", "rm", name)


@contextlib.contextmanager
def running(
    engine: Engine, network: str, image: str, *command: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Run a container, and remove it on exit."""
    name = f"llmstack-test-{uuid.uuid4().hex[:12]}"
    engine.docker("run", "--detach", "--name", name, "--network", network, *options, image, *command)
    try:
        yield Container(engine, name)
    finally:
        engine.docker("rm", "--force", "--volumes", name)
