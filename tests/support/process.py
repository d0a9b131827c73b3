"""Start server processes for tests, wait until they are ready, and stop them by process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

START_TIMEOUT = 60.0


class RigError(Exception):
    """The test servers cannot be set up on this machine; the message says what to do."""


# Whether the running test has a marker that allows installed programs; set by tests/conftest.py.
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
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    path = shutil.which(command, path=folders)
    if path is None:
        raise RigError(f"`{command}` is needed by this test: apt-get install {package} (`make system` does it)")
    return path


def free_port() -> int:
    """Return a port that was free a moment ago. Another process may take it before the caller does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Daemon:
    """A server process that runs until stop() or until the test process ends; it writes its output to `log`."""

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
        """Call `ready` until it returns True; raises RigError if the process ends or START_TIMEOUT expires."""
        deadline = time.monotonic() + START_TIMEOUT
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RigError(f"{self._process.args!r} did not start; the end of its output:\n{self._tail()}")
            time.sleep(0.02)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float) -> int:
        """Wait until the process exits; return its exit code."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """Terminate the process; after START_TIMEOUT, kill it and the processes that it started."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


def processes_below(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    found: list[int] = []
    for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(text), *processes_below(int(text))]
    return found
