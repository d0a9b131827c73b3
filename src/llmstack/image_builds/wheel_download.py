"""Downloading wheels for other Pythons and platforms than this one, by pip itself."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import LlmstackError, UnavailableError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.reporting import Reporter

_LAST_LINES = 12
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(\w+)")
# What the numbered tags were called before PEP 600.
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d+)?")


@dataclass(frozen=True, slots=True)
class WheelRequest:
    """What to download: requirements files, for which Pythons (`3.11`) and platform tags (`manylinux_2_28_x86_64`).

    Without Pythons or platforms it is those of the Python that runs this.
    """

    requirements: tuple[Path, ...]
    pythons: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for python in self.pythons:
            if not _PYTHON.fullmatch(python):
                raise UsageError(f"--python {python!r} is not a version of Python", hint="write it as 3.11")
        for path in self.requirements:
            if not path.is_file():
                raise UsageError(f"the requirements file {path} does not exist")


def download_wheels(wish: WheelRequest, environment: BuildEnvironment, folder: Path, reporter: Reporter) -> list[Path]:
    """Download the wheels of all requirements and what they depend on into `folder`; return them, sorted.

    pip's own configuration counts, the site's settings before it. Raises LlmstackError with pip's last words.
    """
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError(
            "the wheels cannot be downloaded: this Python has no pip", hint=f"{sys.executable} -m ensurepip"
        )
    for python in wish.pythons or ("",):
        for platform in wish.platforms or ("",):
            target = " ".join(filter(None, (python and f"Python {python}", platform))) or "this machine"
            reporter.note(f"pip-offline: wheels for {target}")
            _run_pip([*_selection(python, platform), *_requirements(wish)], environment, folder, target, reporter)
    return sorted(folder.glob("*.whl"))


def platform_tags(platform: str) -> tuple[str, ...]:
    """Return the tags that a machine of this tag accepts: an old wheel runs on a newer C library."""
    match = _MANYLINUX.fullmatch(platform)
    if not match:
        return (platform,)
    newest, machine = int(match[1]), match[2]
    tags: list[str] = []
    for minor in range(newest, 4, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _OLD_NAMES:
            tags.append(f"{_OLD_NAMES[minor]}_{machine}")
    return tuple(tags)


def _selection(python: str, platform: str) -> Iterator[str]:
    if python:
        yield from ("--python-version", python)
    for tag in platform_tags(platform) if platform else ():
        yield from ("--platform", tag)


def _requirements(wish: WheelRequest) -> Iterator[str]:
    for path in wish.requirements:
        yield from ("--requirement", str(path))


def _run_pip(
    arguments: list[str], environment: BuildEnvironment, folder: Path, target: str, reporter: Reporter
) -> None:
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--progress-bar=off"]
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with subprocess.Popen(  # noqa: S603 - this Python's own pip, with arguments that were checked
        [*command, "--disable-pip-version-check", "--dest", str(folder), *arguments],
        env={**os.environ, **_environment(environment)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            if line.startswith(("Saved ", "  Downloading ")):
                reporter.note(f"pip-offline: {line.strip()}")
    if process.returncode:
        lines = "".join(f"\n  {line}" for line in last)
        raise LlmstackError(
            f"downloading wheels for {target}: pip ended with {process.returncode}{lines}",
            hint="a project without a wheel for that target must be left out, or its wheel built and found by pip",
        )


def _environment(environment: BuildEnvironment) -> dict[str, str]:
    """Return the site's settings for pip; as variables they show in no process list."""
    values = {
        "PIP_INDEX_URL": environment.settings.pip_index,
        "PIP_EXTRA_INDEX_URL": " ".join(environment.settings.pip_extra_index),
        "PIP_TRUSTED_HOST": " ".join(environment.settings.pip_trusted_host),
        "PIP_CERT": str(environment.settings.ca_cert or ""),
        **environment.proxies,
    }
    return {name: value for name, value in values.items() if value}
