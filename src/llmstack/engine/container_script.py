"""Running a script in a container and keeping what it leaves, without its secrets ever being part of an image."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError
from llmstack.reporting import Reporter

_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class ScriptSpec:
    """A container to run: its image, its variables, and those that reach it through standard input only.

    `hidden` is not shown, even when the container prints it.
    """

    title: str
    image: str
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)
    network: str | None = None


def run_script(engine: Engine, job: ScriptSpec, reporter: Reporter) -> str:
    """Run the image's command to its end and return the id of an image of the container's files.

    The command reads `NAME=value` lines from standard input, up to an empty one. Raises LlmstackError with its last
    lines if it fails.
    """
    api = engine.client.api
    with engine_errors(f"running {job.title}"):
        container = api.create_container(
            job.image,
            stdin_open=True,
            environment=dict(job.environment),
            labels={"dev.llmstack": "prepare"},
            host_config=api.create_host_config(network_mode=job.network),
        )["Id"]
        try:
            attached = api.attach_socket(container, params={"stdin": 1, "stream": 1})
            # docker-py gives a wrapper of the socket, which can only be read from and does not close it.
            socket = getattr(attached, "_sock", attached)
            with closing(socket), closing(attached):
                api.start(container)
                socket.sendall(_stdin(job.secrets))
            last = _follow(engine, container, job, reporter)
            code = api.wait(container)["StatusCode"]
            if code:
                lines = "".join(f"\n  {line}" for line in last)
                raise LlmstackError(f"{job.title}: exit code {code}{lines}")
            # The engine copies all that the script left before it answers.
            with engine.unhurried():
                return str(api.commit(container)["Id"])
        finally:
            api.remove_container(container, force=True, v=True)


def remove_image(engine: Engine, image: str, *, keep_parents: bool = False) -> None:
    """Remove an image that is not needed any more; one that cannot be removed is left.

    The untagged images that it stands on go too, unless `keep_parents`: those of a build stage are Docker's cache.
    """
    with suppress(LlmstackError), engine_errors(f"removing {image}"):
        engine.client.api.remove_image(image, force=True, noprune=keep_parents)


def _stdin(secrets: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in secrets.items() if "\n" not in value).encode() + b"\n"


def _follow(engine: Engine, container: str, job: ScriptSpec, reporter: Reporter) -> list[str]:
    """Report the container's lines until it ends; return the last ones."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    rest = ""
    for chunk in engine.client.api.logs(container, stream=True, follow=True):
        *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
        for line in lines:
            # What a progress bar wrote over itself is not worth a line.
            shown = _without(job.hidden, line.rstrip("\r").rpartition("\r")[2].rstrip())
            if shown:
                last.append(shown)
                reporter.note(f"{job.title}: {shown}")
    if rest.strip():
        last.append(_without(job.hidden, rest.strip()))
    return list(last)


def _without(hidden: tuple[str, ...], line: str) -> str:
    for value in hidden:
        line = line.replace(value, "***")
    return line
