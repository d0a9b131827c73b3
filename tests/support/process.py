"""Servers that tests start as processes of their own: started, waited for, ended by their process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 60.0


class RigError(Exception):
    """The rig cannot be set up on this machine; the message says what to do."""


# Whether the running test has a marker that lets it use programs of the machine; set by tests/conftest.py.
programs_allowed = True
# Programs of every Linux system.
_ESSENTIAL = frozenset({"ps", "setpriv", "tar"})


def need(command: str, package: str) -> str:
    """Return the path of a program; raises RigError with the package to install.

    Raises RigError also in a test without the marker `engine`, `registry`, `browser` or `system`: `make test-unit`
    would run it on machines that lack the program.
    """
    if not programs_allowed and command not in _ESSENTIAL:
        raise RigError(f"a test that uses `{command}` needs a marker: engine, registry, browser or system")
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    path = shutil.which(command, path=places)
    if path is None:
        raise RigError(f"`{command}` is needed by this test: apt-get install {package} (`make system` does it)")
    return path


def free_port() -> int:
    """Return a port that was free a moment ago: whoever uses it must be ready to try another."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Daemon:
    """A process that serves until stop(); its output goes to `log`, and it ends when the test process dies."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [need("setpriv", "util-linux"), "--pdeathsig", "TERM", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Ask `ready` again and again until it says yes; raises RigError when the process ends or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RigError(f"{self._process.args!r} did not come up; its output ends:\n{self._tail()}")
            # A pause between two questions, not a guess at how long it takes.
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Return the exit code of a process that ends by itself."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """End the process, and what it has started where it does not do so itself."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]
