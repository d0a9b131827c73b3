"""Download wheels for other Python versions and platforms with pip."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import LlmstackError, UnavailableError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.reporting import Reporter

_LAST_LINES = 12
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(\w+)")
# Names of these tags before PEP 600.
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_PYTHON = re.compile(r"3\.\d{1,2}(\.\d+)?")
_LINUX = re.compile(r"(?:manylinux[0-9_]*|musllinux_[0-9_]*|linux)_(?P<machine>[a-z]\w*)")
_MACOS = re.compile(r"macosx_\d+_\d+_(?P<machine>\w+)")
_WINDOWS_MACHINES = {"win32": "x86", "win_amd64": "AMD64", "win_arm64": "ARM64"}
_MACOS_MACHINES = {"universal2": "arm64", "intel": "x86_64"}
# pip selects wheels for the target, but evaluates environment markers for the running Python (pypa/pip#11664). This
# program runs pip with the target's markers, and stops if its pip ignores them.
_PIP = """
import json, runpy, sys
from pip._vendor.packaging import markers
target = json.loads(sys.argv.pop(1))
environment = {**markers.default_environment(), **target}
markers.default_environment = lambda: dict(environment)
for name, value in target.items():
    if value and not markers.Marker(f"{name} == {value!r}").evaluate():
        sys.exit(f"this version of pip cannot evaluate environment markers for a target: {name}")
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True, slots=True)
class WheelRequest:
    """The requirements files, and the Python versions (`3.11`) and platform tags (`manylinux_2_28_x86_64`) to support.

    Without versions or tags, those of the running Python. `images` are those whose locked packages are wanted, as
    `vllm:cuda13`; their targets are those of the images. Raises UsageError.
    """

    requirements: tuple[Path, ...]
    pythons: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for python in self.pythons:
            if not _PYTHON.fullmatch(python):
                raise UsageError(f"--python {python!r}: not a Python version", hint="write it as 3.11")
        for platform in self.platforms:
            target_markers("", platform)
        for path in self.requirements:
            if not path.is_file():
                raise UsageError(f"requirements file {path}: not found")


def download_wheels(
    request: WheelRequest, environment: BuildEnvironment, folder: Path, reporter: Reporter, what: str = "pip-offline"
) -> list[Path]:
    """Download the wheels of all requirements and their dependencies into `folder`; return their sorted paths.

    The build settings take precedence over pip's configuration. `what` needs the wheels, for messages. Raises
    LlmstackError with pip's last lines.
    """
    if not request.requirements:
        return []
    for python in request.pythons or ("",):
        for platform in request.platforms or ("",):
            target = " ".join(filter(None, (python and f"Python {python}", platform))) or "this machine"
            reporter.note(f"{what}: downloading wheels for {target}")
            arguments = ["download", "--only-binary=:all:", *selection(python, platform), f"--dest={folder}"]
            arguments += (f"--requirement={path}" for path in request.requirements)
            run_pip(arguments, environment, target, reporter, target_markers(python, platform), what=what)
    return sorted(folder.glob("*.whl"))


def target_markers(python: str, platform: str) -> dict[str, str]:
    """Return the environment markers of a target that can differ from the running Python's; raises UsageError."""
    markers: dict[str, str] = {}
    if python:
        full = python if python.count(".") == 2 else f"{python}.0"
        markers |= {"python_version": full.rpartition(".")[0], "python_full_version": full}
        markers["implementation_version"] = full
    if platform in {"", "any"}:
        return markers
    if match := _LINUX.fullmatch(platform):
        names = ("linux", "Linux", "posix", match["machine"])
    elif match := _MACOS.fullmatch(platform):
        names = ("darwin", "Darwin", "posix", _MACOS_MACHINES.get(match["machine"], match["machine"]))
    elif platform in _WINDOWS_MACHINES:
        names = ("win32", "Windows", "nt", _WINDOWS_MACHINES[platform])
    else:
        raise UsageError(
            f"--platform-tag {platform!r}: unknown platform",
            hint="use a tag such as manylinux_2_28_x86_64, macosx_11_0_arm64 or win_amd64",
        )
    keys = ("sys_platform", "platform_system", "os_name", "platform_machine")
    return {**markers, **dict(zip(keys, names, strict=True)), "platform_release": "", "platform_version": ""}


def platform_tags(platform: str) -> tuple[str, ...]:
    """Return the tags of wheels that run on this platform: a newer C library runs wheels for older ones."""
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


def selection(python: str, platform: str) -> Iterator[str]:
    """Yield pip's options for a target; an empty string: that of the running Python."""
    if python:
        yield f"--python-version={python}"
    for tag in platform_tags(platform) if platform else ():
        yield f"--platform={tag}"


def run_pip(
    arguments: Sequence[str],
    environment: BuildEnvironment,
    target: str,
    reporter: Reporter,
    markers: Mapping[str, str] | None = None,
    *,
    what: str = "pip-offline",
) -> None:
    """Run pip with the build settings; with `markers`, it resolves dependencies for the target that has them.

    `target` and `what` are for messages. Raises UnavailableError without pip, LlmstackError with pip's last lines.
    """
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError(
            f"{what}: cannot download wheels: this Python has no pip", hint=f"run {sys.executable} -m ensurepip"
        )
    pip = ["-m", "pip"] if markers is None else ["-c", _PIP, json.dumps(markers)]
    command = [sys.executable, "-P", *pip, arguments[0]]
    if arguments[0] == "download":
        command.append("--progress-bar=off")
    last: deque[str] = deque(maxlen=_LAST_LINES)
    with (
        subprocess.Popen(  # noqa: S603 - this Python's own pip, with arguments that were checked
            [*command, "--disable-pip-version-check", *arguments[1:]],
            env={**os.environ, **_pip_variables(environment)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process
    ):
        for line in process.stdout or ():
            last.append(line.rstrip())
            if line.startswith(("Saved ", "  Downloading ")):
                reporter.note(f"{what}: {line.strip()}")
    if process.returncode:
        lines = "".join(f"\n  {line}" for line in last)
        raise LlmstackError(
            f"{what}: downloading wheels for {target} failed: pip exit code {process.returncode}{lines}",
            hint="if a package has no wheel for that target, remove it, or build its wheel and add --find-links",
        )


def _pip_variables(environment: BuildEnvironment) -> dict[str, str]:
    """Return the build settings as pip's variables: a process list shows arguments, but not variables."""
    values = {
        "PIP_INDEX_URL": environment.settings.pip_index,
        "PIP_EXTRA_INDEX_URL": " ".join(environment.settings.pip_extra_index),
        "PIP_TRUSTED_HOST": " ".join(environment.settings.pip_trusted_host),
        "PIP_CERT": str(environment.settings.ca_cert or ""),
        "PIP_CONFIG_FILE": str(environment.settings.pip_config or ""),
        "NETRC": str(environment.settings.netrc or ""),
        **environment.proxies,
    }
    return {name: value for name, value in values.items() if value}
