"""Run a script in a container and commit the result to an image, without its secrets."""

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
    """A container to run: its image, its environment, and secrets that it reads from standard input.

    `hidden` strings are masked in the container's output.
    """

    title: str
    image: str
    environment: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)
    network: str | None = None


def run_script(engine: Engine, spec: ScriptSpec, reporter: Reporter) -> str:
    """Run the image's command and return the id of an image of the container's files.

    The command reads `NAME=value` lines from standard input, up to an empty line. Raises LlmstackError with the last
    lines of its output if it fails.
    """
    api = engine.client.api
    with engine_errors(f"running {spec.title}"):
        container = api.create_container(
            spec.image,
            stdin_open=True,
            environment=dict(spec.environment),
            labels={"dev.llmstack": "prepare"},
            host_config=api.create_host_config(network_mode=spec.network),
        )["Id"]
        try:
            attached = api.attach_socket(container, params={"stdin": 1, "stream": 1})
            # docker-py returns a read-only wrapper that does not close the socket.
            socket = getattr(attached, "_sock", attached)
            with closing(socket), closing(attached):
                api.start(container)
                socket.sendall(_stdin(spec.secrets))
            last = _follow(engine, container, spec, reporter)
            code = api.wait(container)["StatusCode"]
            if code:
                lines = "".join(f"\n  {line}" for line in last)
                raise LlmstackError(f"{spec.title}: exit code {code}{lines}")
            # The engine copies all changed files before it answers.
            with engine.no_timeout():
                return str(api.commit(container)["Id"])
        finally:
            api.remove_container(container, force=True, v=True)


def remove_image(engine: Engine, image: str, *, keep_parents: bool = False) -> None:
    """Remove an image; ignore errors.

    Untagged parent images are removed too, unless `keep_parents`: those of a build stage are Docker's cache.
    """
    with suppress(LlmstackError), engine_errors(f"removing {image}"):
        engine.client.api.remove_image(image, force=True, noprune=keep_parents)


def _stdin(secrets: Mapping[str, str]) -> bytes:
    return "".join(f"{name}={value}\n" for name, value in secrets.items() if "\n" not in value).encode() + b"\n"


def _follow(engine: Engine, container: str, spec: ScriptSpec, reporter: Reporter) -> list[str]:
    """Report the container's output until it ends; return the last lines."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    rest = ""
    for chunk in engine.client.api.logs(container, stream=True, follow=True):
        *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
        for line in lines:
            # Of a progress bar, show only the last state.
            shown = _mask(spec.hidden, line.rstrip("\r").rpartition("\r")[2].rstrip())
            if shown:
                last.append(shown)
                reporter.note(f"{spec.title}: {shown}")
    if rest.strip():
        last.append(_mask(spec.hidden, rest.strip()))
    return list(last)


def _mask(hidden: tuple[str, ...], line: str) -> str:
    for value in hidden:
        line = line.replace(value, "***")
    return line
