"""What the builders share: the specification of a build, the report of its steps, and the errors of registries."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmstack.engine.docker_engine import Engine
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.reporting import Reporter, Task, human_time

# Lines shown of a failed step's stdout, and as many of its stderr. The engine does not keep the order of the two.
LAST_LINES = 15
# Terminal colors.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MOUNT = re.compile(r"--mount=\S+ ")
# With a recipe's name and a step's number in front, this fits 120 columns.
_MAX_INSTRUCTION = 90
_MAX_LINE = 10_000

_NOT_FOUND = re.compile(r"not found|manifest unknown|no such image|does not exist|no matching manifest", re.IGNORECASE)
_DENIED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection (refused|reset)|time(d )?out|TLS|x509|EOF|server gave HTTP|unreachable|50\d ",
    re.IGNORECASE,
)
BASE_HINT = "docker login, or set --base to a mirror of the base image"


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One image to build: the Dockerfile, the origin of each instruction, the context, and Docker's options.

    `secrets` are masked in all output. `stage` is the target stage. `secret_files` are files that steps may read during
    the build, by id; only buildx has them.
    """

    title: str
    dockerfile: str
    origins: tuple[str, ...]
    files: Mapping[str, bytes | Path]
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_files: Mapping[str, Path] = field(default_factory=dict)
    stage: str | None = None
    platforms: tuple[str, ...] = ()
    network: str | None = None
    no_cache: bool = False
    pull: bool = False

    def clean(self, text: str) -> str:
        """Return text without terminal colors and secrets."""
        text = _CONTROL.sub("", text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


class Builder(Protocol):
    """Builds images in a Docker Engine. A Dockerfile for it may use BuildKit's syntax if `buildkit`."""

    @property
    def name(self) -> str:
        """The name for messages."""

    @property
    def buildkit(self) -> bool:
        """Whether it understands RUN --mount."""

    def build(self, engine: Engine, spec: BuildSpec, reporter: Reporter) -> str:
        """Build an image and return its id; it has no tag.

        Raises LlmstackError with the failed step, its line in the recipe and the last lines of its output;
        NotFoundError, NotAuthorizedError or UnavailableError if the base image cannot be pulled.
        """


class Step:
    """A step of a build: reports its start and its end, and keeps the last lines of its output."""

    def __init__(self, spec: BuildSpec, label: str, instruction: str, reporter: Reporter) -> None:
        self._spec = spec
        self._label = label
        self._reporter = reporter
        self._began = time.monotonic()
        self._lines, self._errors = _Tail(), _Tail()
        self._ended = False
        self.instruction = shorten(spec.clean(instruction))
        reporter.note(f"{spec.title} [{label}] {self.instruction}")

    def add(self, text: str, *, stderr: bool) -> None:
        """Add a piece of the output."""
        (self._errors if stderr else self._lines).add(_CONTROL.sub("", text))

    def end(self, *, cached: bool) -> None:
        """Report that the result came from the cache, or a duration of a second or more."""
        if self._ended:
            return
        self._ended = True
        seconds = time.monotonic() - self._began
        if cached:
            self._reporter.note(f"{self._spec.title} [{self._label}] cached")
        elif seconds >= 1:
            duration = f"{seconds:.1f} s" if seconds < 60 else human_time(seconds)
            self._reporter.note(f"{self._spec.title} [{self._label}] {duration}")

    def failure(self, answer: str, code: str | None, origin: str) -> LlmstackError:
        """Return the error for this step; `code` is its exit code, `origin` its place in the recipe."""
        what = describe(self._spec, f"{self._label} ({self.instruction})", origin)
        if self.instruction.startswith("FROM "):
            return registry_error(what, self._spec.clean(answer), "source", BASE_HINT)
        shown = [*self._lines.shown(), *self._errors.shown()]
        lines = "".join(f"\n  {self._spec.clean(line)}" for line in shown)
        return LlmstackError(f"{what}: {f'exit code {code}' if code else self._spec.clean(answer)}{lines}")


def describe(spec: BuildSpec, step: str, origin: str) -> str:
    """Name a step in an error."""
    return f"building {spec.title}, step {step}" + (f", {origin}" if origin else "")


class _Tail:
    """The last lines of an output that comes in pieces. A piece may end anywhere, even inside a secret."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = ""

    def add(self, piece: str) -> None:
        """Add a piece, without terminal colors."""
        *lines, rest = (self._rest + piece).split("\n")
        self._lines += [line for line in lines if line.strip()]
        self._rest = rest[-_MAX_LINE:]

    def shown(self) -> list[str]:
        """Return the lines; of a progress bar, its last state."""
        lines = [*self._lines, self._rest]
        return [line.rstrip().rpartition("\r")[2] for line in lines if line.strip()]


def registry_error(what: str, answer: str, side: str, hint: str) -> LlmstackError:
    """Return the error for a registry's answer, which the engine passes on as text."""
    classes = ((_DENIED, NotAuthorizedError), (_NOT_FOUND, NotFoundError), (_UNREACHABLE, UnavailableError))
    error = next((error for pattern, error in classes if pattern.search(answer)), LlmstackError)
    return error(f"{what}: {answer.strip()}", hint=hint, side=side)


def shorten(instruction: str) -> str:
    """Return an instruction as one line of limited length, without mounts."""
    line = " ".join(_MOUNT.sub("", instruction).split())
    return line if len(line) <= _MAX_INSTRUCTION else line[: _MAX_INSTRUCTION - 1] + "…"


_TRANSFERRING = frozenset({"Downloading", "Pushing"})
_TRANSFERRED = frozenset({"Download complete", "Pull complete", "Pushed", "Layer already exists", "Already exists"})


class LayerProgress:
    """Turns the engine's status messages into one task per layer. Call `end` at the end."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._reporter = reporter
        self._title = title
        self._begun = False
        self._tasks: dict[str, tuple[Task, int]] = {}

    def follow(self, item: Mapping[str, Any]) -> None:
        """Read one message. Messages without a layer are ignored."""
        layer, status, detail = str(item.get("id", "")), item.get("status"), item.get("progressDetail") or {}
        if status in _TRANSFERRING and detail.get("total"):
            self._advance(layer, int(detail.get("current", 0)), int(detail["total"]))
        elif status in _TRANSFERRED and layer in self._tasks:
            self._tasks[layer][0].done()

    def end(self) -> None:
        """End all tasks."""
        if self._begun:
            self._reporter.end()
            self._begun = False
            self._tasks.clear()

    def _advance(self, layer: str, current: int, total: int) -> None:
        if not self._begun:
            self._reporter.begin(self._title, 0)
            self._begun = True
        if layer not in self._tasks:
            self._tasks[layer] = (self._reporter.task(layer, total), 0)
        task, before = self._tasks[layer]
        if current > before:
            task.advance(current - before)
            self._tasks[layer] = (task, current)
