"""Building and pushing images through docker-py, with the classic builder's output made readable."""

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
from llmstack.engine.layer_progress import LayerProgress
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.oci.reference import Reference
from llmstack.reporting import Reporter, human_time

# What a reader of a failure needs to see of a step's output, and as much again of what it wrote to stderr: the engine
# does not keep the two in order.
LAST_LINES = 15
_STDERR = "\x1b[91m"
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_CHATTER = re.compile(r" ?---> |Removing intermediate container |Successfully (built|tagged) ")
# Colours.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# With a recipe's name and a step's number before it, this fits 120 columns.
_SHOWN = 90
_LONGEST = 10_000

_NOT_FOUND = re.compile(r"not found|manifest unknown|no such image|does not exist|no matching manifest", re.IGNORECASE)
_DENIED = re.compile(r"denied|unauthorized|authentication required|no basic auth", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"dial tcp|no such host|connection (refused|reset)|time(d )?out|TLS|x509|EOF|server gave HTTP|unreachable|50\d ",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One image to build: the Dockerfile, where each instruction of it was written, the context, the settings.

    `secrets` are taken out of whatever is shown. `stage` is the stage to stop at. `build_args` are Docker's.
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


def build_image(engine: Engine, job: BuildSpec, reporter: Reporter) -> str:
    """Build an image and return its id, untagged.

    Raises LlmstackError that names the failing step, its line in the recipe and the last lines it printed;
    NotFoundError, NotAuthorizedError or UnavailableError when the base image cannot be had.
    """
    with write_context(job.dockerfile, job.files) as context, engine_errors(f"building {job.title}"):
        events = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            buildargs=dict(job.build_args),
            target=job.stage,
            platform=job.platform,
            network_mode=job.network,
            nocache=job.no_cache,
            pull=job.pull,
            rm=True,
            forcerm=True,
            decode=True,
        )
        return _Steps(job, reporter).follow(events)


def tag_image(engine: Engine, image: str, names: Iterable[str]) -> None:
    """Give an image names; raises UsageError for a name that is none."""
    for name in names:
        reference = Reference.parse(name)
        with engine_errors(f"tagging {name}"):
            engine.client.api.tag(image, name.partition("@")[0].removesuffix(f":{reference.tag}"), reference.tag)


def push_image(engine: Engine, name: str, reporter: Reporter) -> str:
    """Push an image by its name and return its digest in the registry.

    Raises NotAuthorizedError, NotFoundError, UnavailableError or LlmstackError with what the registry answered.
    """
    reference = Reference.parse(name)
    login = lookup(reference.registry)
    auth = None
    if login:
        auth = {"username": login.username, "password": login.password, "identitytoken": login.identity_token or ""}
    progress = LayerProgress(reporter, f"push {name}")
    digest = refusal = ""
    try:
        with engine_errors(f"pushing {name}"):
            events = engine.client.api.push(name, stream=True, decode=True, auth_config=auth)
            # The engine ends the stream after an error: read up to there, so that the connection is free again.
            for item in events:
                refusal = str(item.get("error", refusal))
                progress.follow(item)
                digest = (item.get("aux") or {}).get("Digest", digest)
    finally:
        progress.end()
    if refusal:
        raise _refused(f"pushing {name}", refusal, "destination", f"docker login {reference.registry}")
    reporter.note(f"pushed {name}@{digest}")
    return digest


class _Steps:
    """Follows one build: which step runs, since when, and what it printed last."""

    def __init__(self, job: BuildSpec, reporter: Reporter) -> None:
        self._job = job
        self._reporter = reporter
        self._progress = LayerProgress(reporter, f"{job.title}: base image")
        self._number = 0
        self._total = 0
        self._instruction = ""
        self._began = 0.0
        self._cached = False
        self._lines = _Tail()
        self._errors = _Tail()

    def follow(self, events: Iterable[Mapping[str, Any]]) -> str:
        """Report the steps as they come and return the image's id."""
        image = failure = ""
        try:
            for item in events:
                failure = str(item.get("error", failure))
                self._progress.follow(item)
                image = (item.get("aux") or {}).get("ID", image)
                self._take(str(item.get("stream", "")))
        finally:
            self._progress.end()
        if failure:
            raise self._failure(failure)
        self._end_step()
        if not image:
            raise LlmstackError(f"building {self._job.title}: the engine ended without naming an image")
        return image

    def _take(self, text: str) -> None:
        step = _STEP.match(text)
        if step:
            self._end_step()
            self._number, self._total = int(step[1]), int(step[2])
            self._instruction = _shorten(self._clean(step[3]))
            self._began, self._cached = time.monotonic(), False
            self._lines, self._errors = _Tail(), _Tail()
            self._reporter.note(f"{self._place()} {self._instruction}")
        elif "---> Using cache" in text:
            self._cached = True
        elif not _CHATTER.match(text):
            (self._errors if text.startswith(_STDERR) else self._lines).add(_CONTROL.sub("", text))

    def _end_step(self) -> None:
        if self._number:
            self._progress.end()
            seconds = time.monotonic() - self._began
            if self._cached:
                self._reporter.note(f"{self._place()} cached")
            elif seconds >= 1:
                self._reporter.note(f"{self._place()} {f'{seconds:.1f} s' if seconds < 60 else human_time(seconds)}")

    def _place(self) -> str:
        return f"{self._job.title} [{self._number}/{self._total}]"

    def _clean(self, text: str) -> str:
        text = _CONTROL.sub("", text)
        for secret in self._job.secrets:
            text = text.replace(secret, "***")
        return text

    def _failure(self, answer: str) -> LlmstackError:
        what = f"building {self._job.title}, step {self._number}/{self._total} ({self._instruction})"
        if 0 < self._number <= len(self._job.origins):
            what += f", {self._job.origins[self._number - 1]}"
        answer = self._clean(answer)
        if self._instruction.startswith("FROM "):
            return _refused(what, answer, "source", "docker login, or name a mirror of the base with --base")
        code = re.search(r"returned a non-zero code: (\d+)", answer)
        lines = "".join(f"\n  {self._clean(line)}" for line in [*self._lines.shown(), *self._errors.shown()])
        return LlmstackError(f"{what}: {f'exit code {code[1]}' if code else answer}{lines}")


class _Tail:
    """The last lines of an output that comes in pieces, which may end anywhere: also in the middle of a secret."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._rest = ""

    def add(self, piece: str) -> None:
        """Take a piece, without colours."""
        *whole, rest = (self._rest + piece).split("\n")
        self._lines += [line for line in whole if line.strip()]
        self._rest = rest[-_LONGEST:]

    def shown(self) -> list[str]:
        """Return the lines; of a progress bar, what it showed last."""
        lines = [*self._lines, self._rest]
        return [line.rstrip().rpartition("\r")[2] for line in lines if line.strip()]


def _refused(what: str, answer: str, side: str, hint: str) -> LlmstackError:
    """Return the error for a registry's answer that the engine passed on."""
    kinds = ((_DENIED, NotAuthorizedError), (_NOT_FOUND, NotFoundError), (_UNREACHABLE, UnavailableError))
    kind = next((kind for pattern, kind in kinds if pattern.search(answer)), LlmstackError)
    return kind(f"{what}: {answer.strip()}", hint=hint, side=side)


def _shorten(instruction: str) -> str:
    """Return an instruction on one line of bearable length."""
    line = " ".join(instruction.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
