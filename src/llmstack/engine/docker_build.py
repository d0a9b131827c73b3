"""Build, tag, push and pull images through docker-py, with readable output of the classic builder."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstack.engine.build_context import write_context
from llmstack.engine.credentials import lookup
from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.oci.reference import Reference
from llmstack.reporting import Reporter, Task, human_time

# Lines shown of a failed step's stdout, and as many of its stderr. The engine does not keep the order of the two.
LAST_LINES = 15
_STDERR = "\x1b[91m"
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_NOISE = re.compile(r" ?---> |Removing intermediate container |Successfully (built|tagged) ")
# Terminal colors.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# With a recipe's name and a step's number in front, this fits 120 columns.
_MAX_INSTRUCTION = 90
_MAX_LINE = 10_000

_NOT_FOUND = re.compile(r"not found|manifest unknown|no such image|does not exist|no matching manifest", re.IGNORECASE)
_DENIED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection (refused|reset)|time(d )?out|TLS|x509|EOF|server gave HTTP|unreachable|50\d ",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One image to build: the Dockerfile, the origin of each instruction, the context, and Docker's options.

    `secrets` are masked in all output. `stage` is the target stage.
    """

    title: str
    dockerfile: str
    origins: tuple[str, ...]
    files: Mapping[str, bytes | Path]
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    stage: str | None = None
    platform: str | None = None
    network: str | None = None
    no_cache: bool = False
    pull: bool = False


def build_image(engine: Engine, spec: BuildSpec, reporter: Reporter) -> str:
    """Build an image and return its id; it has no tag.

    Raises LlmstackError with the failed step, its line in the recipe and the last lines of its output; NotFoundError,
    NotAuthorizedError or UnavailableError if the base image cannot be pulled.
    """
    with write_context(spec.dockerfile, spec.files) as context, engine_errors(f"building {spec.title}"):
        events = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            buildargs=dict(spec.build_args),
            target=spec.stage,
            platform=spec.platform,
            network_mode=spec.network,
            nocache=spec.no_cache,
            pull=spec.pull,
            rm=True,
            forcerm=True,
            decode=True,
        )
        return _BuildOutput(spec, reporter).follow(events)


def tag_image(engine: Engine, image: str, names: Iterable[str]) -> None:
    """Tag an image; raises UsageError for an invalid name."""
    for name in names:
        reference = Reference.parse(name)
        with engine_errors(f"tagging {name}"):
            engine.client.api.tag(image, name.partition("@")[0].removesuffix(f":{reference.tag}"), reference.tag)


def push_image(engine: Engine, name: str, reporter: Reporter) -> str:
    """Push an image and return its digest in the registry.

    Raises NotAuthorizedError, NotFoundError, UnavailableError or LlmstackError with the registry's answer.
    """
    reference = Reference.parse(name)
    auth = _auth(reference)
    progress = LayerProgress(reporter, f"push {name}")
    digest = answer = ""
    try:
        with engine_errors(f"pushing {name}"):
            events = engine.client.api.push(name, stream=True, decode=True, auth_config=auth)
            # The engine ends the stream after an error. Reading to the end frees the connection.
            for item in events:
                answer = str(item.get("error", answer))
                progress.follow(item)
                digest = (item.get("aux") or {}).get("Digest", digest)
    finally:
        progress.end()
    if answer:
        raise _registry_error(f"pushing {name}", answer, "destination", f"docker login {reference.registry}")
    reporter.note(f"pushed {name}@{digest}")
    return digest


def pull_image(engine: Engine, name: str, reporter: Reporter) -> None:
    """Pull an image.

    Raises NotFoundError, NotAuthorizedError, UnavailableError or LlmstackError with the registry's answer.
    """
    reference = Reference.parse(name)
    what, hint, answer = f"pulling {name}", f"docker login {reference.registry}", ""
    progress = LayerProgress(reporter, f"pull {name}")
    try:
        # Between two messages, the engine may write a large layer.
        with engine.no_timeout(), engine_errors(what):
            events = engine.client.api.pull(
                f"{reference.registry}/{reference.repository}",
                tag=reference.locator,
                stream=True,
                decode=True,
                auth_config=_auth(reference),
            )
            for item in events:
                answer = str(item.get("error", answer))
                progress.follow(item)
    except (NotFoundError, UnavailableError) as error:
        if error.hint:
            # The engine does not answer.
            raise
        # The engine answers with 404 or 500 what the registry has answered.
        raise _registry_error(what, error.message.removeprefix(f"{what}: "), "source", hint) from error
    finally:
        progress.end()
    if answer:
        raise _registry_error(what, answer, "source", hint)


def _auth(reference: Reference) -> dict[str, str] | None:
    login = lookup(reference.registry)
    if not login:
        return None
    return {"username": login.username, "password": login.password, "identitytoken": login.identity_token or ""}


class _BuildOutput:
    """Follows the output of one build: the current step, its start time and its last lines."""

    def __init__(self, spec: BuildSpec, reporter: Reporter) -> None:
        self._spec = spec
        self._reporter = reporter
        self._progress = LayerProgress(reporter, f"{spec.title}: base image")
        self._number = 0
        self._total = 0
        self._instruction = ""
        self._began = 0.0
        self._cached = False
        self._lines = _Tail()
        self._errors = _Tail()

    def follow(self, events: Iterable[Mapping[str, Any]]) -> str:
        """Report each step and return the image's id."""
        image = failure = ""
        try:
            for item in events:
                failure = str(item.get("error", failure))
                self._progress.follow(item)
                image = (item.get("aux") or {}).get("ID", image)
                self._read(str(item.get("stream", "")))
        finally:
            self._progress.end()
        if failure:
            raise self._failure(failure)
        self._end_step()
        if not image:
            raise LlmstackError(f"building {self._spec.title}: the engine returned no image id")
        return image

    def _read(self, text: str) -> None:
        step = _STEP.match(text)
        if step:
            self._end_step()
            self._number, self._total = int(step[1]), int(step[2])
            self._instruction = _shorten(self._clean(step[3]))
            self._began, self._cached = time.monotonic(), False
            self._lines, self._errors = _Tail(), _Tail()
            self._reporter.note(f"{self._label()} {self._instruction}")
        elif "---> Using cache" in text:
            self._cached = True
        elif not _NOISE.match(text):
            (self._errors if text.startswith(_STDERR) else self._lines).add(_CONTROL.sub("", text))

    def _end_step(self) -> None:
        if self._number:
            self._progress.end()
            seconds = time.monotonic() - self._began
            if self._cached:
                self._reporter.note(f"{self._label()} cached")
            elif seconds >= 1:
                self._reporter.note(f"{self._label()} {f'{seconds:.1f} s' if seconds < 60 else human_time(seconds)}")

    def _label(self) -> str:
        return f"{self._spec.title} [{self._number}/{self._total}]"

    def _clean(self, text: str) -> str:
        text = _CONTROL.sub("", text)
        for secret in self._spec.secrets:
            text = text.replace(secret, "***")
        return text

    def _failure(self, answer: str) -> LlmstackError:
        what = f"building {self._spec.title}, step {self._number}/{self._total} ({self._instruction})"
        if 0 < self._number <= len(self._spec.origins):
            what += f", {self._spec.origins[self._number - 1]}"
        answer = self._clean(answer)
        if self._instruction.startswith("FROM "):
            return _registry_error(what, answer, "source", "docker login, or set --base to a mirror of the base image")
        code = re.search(r"returned a non-zero code: (\d+)", answer)
        lines = "".join(f"\n  {self._clean(line)}" for line in [*self._lines.shown(), *self._errors.shown()])
        return LlmstackError(f"{what}: {f'exit code {code[1]}' if code else answer}{lines}")


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


def _registry_error(what: str, answer: str, side: str, hint: str) -> LlmstackError:
    """Return the error for a registry's answer, which the engine passes on as text."""
    classes = ((_DENIED, NotAuthorizedError), (_NOT_FOUND, NotFoundError), (_UNREACHABLE, UnavailableError))
    error = next((error for pattern, error in classes if pattern.search(answer)), LlmstackError)
    return error(f"{what}: {answer.strip()}", hint=hint, side=side)


def _shorten(instruction: str) -> str:
    """Return an instruction as one line of limited length."""
    line = " ".join(instruction.split())
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
