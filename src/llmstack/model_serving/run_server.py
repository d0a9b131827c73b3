"""Run a plan in the Docker Engine: get the images, start the server, wait until it is healthy; list and stop."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from llmstack.carried_image.file_index import ROOT
from llmstack.carried_image.image import Image
from llmstack.carried_image.image_location import RegistryLocation
from llmstack.engine.containers import (
    LABEL,
    ContainerSpec,
    Mount,
    container_state,
    fill_volume,
    filled_volumes,
    labelled,
    last_lines,
    mounts_images,
    port_in_use,
    remove_container,
    remove_volume,
    start_container,
    wait_container,
)
from llmstack.engine.docker_build import pull_image
from llmstack.engine.docker_engine import Engine, engine_host
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError, UsageError
from llmstack.interrupts import Interrupted
from llmstack.model_serving.find_model import FoundModel
from llmstack.model_serving.load_image import load_image
from llmstack.model_serving.serve_plan import ServePlan
from llmstack.model_serving.servers import HEALTH_PATH, MODEL_ROOT
from llmstack.net import Client, ConnectionLostError
from llmstack.reporting import Reporter, human_time, printable

_SERVE = "serve"
_MODEL, _SERVER, _URL, _VOLUME = (f"{LABEL}.serve.{name}" for name in ("model", "server", "url", "volume"))
_POLL_SECONDS = 0.25
_NOTE_SECONDS = 10.0
_HEALTH_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server in the Docker Engine: started by `llmstack serve`, running or not. `started` is seconds since 1970."""

    name: str
    model: str
    server: str
    url: str
    running: bool
    status: str
    started: int
    volume: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        return asdict(self)


def engine_address() -> str | None:
    """Return the host of the Docker Engine if it is another machine; None if it is this one."""
    parts = urlsplit(engine_host())
    return parts.hostname if parts.scheme in {"tcp", "ssh", "http", "https"} else None


def check_listen(plan: ServePlan) -> None:
    """Raise UsageError if the port is in use, or nobody could reach it: before anything large is pulled."""
    remote = engine_address()
    if remote and not plan.exposed and remote not in {"localhost", "127.0.0.1"}:
        raise UsageError(
            f"--port: on {remote}, where the Docker Engine is, {plan.address} is not reachable from here",
            hint=f"add --port 0.0.0.0:{plan.port}",
        )
    if remote:
        return
    family = socket.AF_INET6 if ":" in plan.address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.address, plan.port))
        except OSError as error:
            if error.errno in {13, 98}:
                raise port_in_use(plan.port) from error
            raise UsageError(f"--port: {plan.address}: {error.strerror}") from error
        except UnicodeError as error:
            raise UsageError(f"--port: {plan.address!r} is not an address") from error


@contextmanager
def running_server(
    engine: Engine,
    plan: ServePlan,
    found: FoundModel,
    reporter: Reporter,
    *,
    keep: bool = False,
    remove_copy: bool = False,
) -> Iterator[RunningServer]:
    """Start the server; stop and remove it at the end, whatever ends it.

    With `keep`, it is removed after an error only. `remove_copy` also removes
    the volume with a copy of the model.
    Raises NotFoundError without an image, NotAuthorizedError, UsageError if the port is in use, UnavailableError.
    """
    check_not_running(list_servers(engine), plan)
    check_listen(plan)
    server_image = _server_image(engine, plan, reporter)
    mount = None if found.model.hub else _mount(engine, found, reporter)
    volume = mount.source if mount and mount.kind == "volume" else None
    server = RunningServer(
        name=plan.container,
        model=plan.model.name,
        server=plan.server.name,
        url=plan.url(engine_address()),
        running=True,
        status="starting",
        started=int(time.time()),
        volume=volume,
    )
    try:
        start_container(engine, _spec(plan, server, server_image, mount))
        yield server
    except BaseException as error:
        keep = False
        if isinstance(error, Interrupted):
            error.hint = "the server was stopped and removed"
        raise
    finally:
        if not keep:
            with contextlib.suppress(LlmstackError):
                remove_container(engine, server.name)
                if volume and remove_copy:
                    remove_volume(engine, volume)


def check_not_running(servers: Sequence[RunningServer], plan: ServePlan) -> None:
    """Raise UsageError if a server of this model runs on this port."""
    for server in servers:
        if server.name == plan.container and server.running:
            raise UsageError(
                f"{server.model}: is served already at {server.url}",
                hint=f"stop it: llmstack serve --stop {server.model}; or choose another --port",
            )


def wait_until_healthy(engine: Engine, server: RunningServer, client: Client, reporter: Reporter) -> None:
    """Wait until the server answers; report its last line of output from time to time.

    Raises LlmstackError with its last lines if it ends, UnavailableError if the engine does not answer.
    """
    began = noted = time.monotonic()
    while not _is_healthy(server, client):
        check_running(engine, server)
        now = time.monotonic()
        if now - noted >= _NOTE_SECONDS:
            noted = now
            lines = last_lines(engine, server.name, 1)
            line = f": {printable(lines[-1])}" if lines else ""
            reporter.note(f"{server.server}: loading, {human_time(now - began)}{line}")
        time.sleep(_POLL_SECONDS)
    reporter.note(f"{server.server}: ready after {human_time(time.monotonic() - began)}")


def check_running(engine: Engine, server: RunningServer) -> None:
    """Raise LlmstackError with the last lines of the server's output if it has ended."""
    state = container_state(engine, server.name)
    if state.running:
        return
    lines = "".join(f"\n  {line}" for line in last_lines(engine, server.name))
    cause = "out of memory" if state.out_of_memory else f"exit code {state.exit_code}"
    raise LlmstackError(
        f"{server.model}: {server.server} has ended: {cause}{lines}",
        hint="try a smaller model, quantization or --context-length" if state.out_of_memory else None,
    )


def wait_until_ended(engine: Engine, server: RunningServer) -> None:
    """Wait until the server ends; raises LlmstackError unless somebody has stopped and removed it."""
    wait_container(engine, server.name)
    with contextlib.suppress(NotFoundError):
        check_running(engine, server)


def list_servers(engine: Engine) -> list[RunningServer]:
    """Return all servers of the engine, the oldest first."""
    return [
        RunningServer(
            name=each.name,
            model=each.labels.get(_MODEL, ""),
            server=each.labels.get(_SERVER, ""),
            url=each.labels.get(_URL, ""),
            running=each.running,
            status=each.status,
            started=each.created,
            volume=each.labels.get(_VOLUME) or None,
        )
        for each in labelled(engine, _SERVE)
    ]


def stop_servers(engine: Engine, name: str, *, remove_copy: bool = False) -> tuple[list[RunningServer], list[str]]:
    """Stop and remove the servers of a model, or the one of this name; return them and the volumes that were removed.

    `remove_copy` also removes the volumes with copies of the model, with and without a server. Raises NotFoundError if
    there is nothing to remove.
    """
    model = name.partition("@")[0]
    found = [each for each in list_servers(engine) if name == each.name or model == each.model]
    volumes: set[str] = set()
    if remove_copy:
        volumes = {each.volume for each in found if each.volume} | set(filled_volumes(engine, model))
    if not found and not volumes:
        raise NotFoundError(f"{name}: no server of this model is running", hint="list them: llmstack serve --list")
    for server in found:
        remove_container(engine, server.name)
    for volume in volumes:
        remove_volume(engine, volume)
    return found, sorted(volumes)


def _is_healthy(server: RunningServer, client: Client) -> bool:
    try:
        with contextlib.closing(client.send("GET", f"{server.url}{HEALTH_PATH}", timeout=_HEALTH_TIMEOUT)) as response:
            return response.status == 200
    except ConnectionLostError:
        return False


def _server_image(engine: Engine, plan: ServePlan, reporter: Reporter) -> str:
    """Return the server's image: the first one that the engine has, else the first one that can be pulled."""
    for name in plan.server_images:
        if engine.has_image(name):
            return name
    failed: LlmstackError | None = None
    for name in plan.server_images:
        # Without a registry, the name is one of `llmstack build` on this machine.
        if "/" not in name:
            continue
        try:
            pull_image(engine, name, reporter)
        except NotFoundError:
            continue
        except (NotAuthorizedError, UnavailableError) as error:
            failed = failed or error
            continue
        return name
    name, _, variant = plan.server_images[0].rpartition("/")[2].rpartition(":")
    if name == plan.server.name and variant in plan.server.variants(plan.gpus):
        hint = f"llmstack build {plan.server.name} --variant {variant} --push; or name another one: --server-image REF"
    else:
        hint = f"docker pull {plan.server_images[0]}; or leave --server-image out"
    if failed:
        failed.hint = f"{failed.hint}; or {hint}" if failed.hint else hint
        raise failed
    raise NotFoundError(f"image of {plan.server.name}: not found: {', '.join(plan.server_images)}", hint=hint)


def _mount(engine: Engine, found: FoundModel, reporter: Reporter) -> Mount:
    """Get the model's image into the engine and return its mount; an old engine gets a copy in a volume."""
    image = found.model.image
    if isinstance(found.image, Image) and image is None:
        image = load_image(engine, found.image, reporter)
    elif isinstance(found.location, RegistryLocation):
        pull_image(engine, found.location.name, reporter)
    assert image is not None, "only a model of a hub has no image"
    if mounts_images(engine):
        # By id: the name may get another image at any time.
        return Mount("image", str(engine.inspect(image)["Id"]), MODEL_ROOT, ROOT)
    return Mount("volume", fill_volume(engine, image, f"/{ROOT}", found.model.name, reporter.note), MODEL_ROOT)


def _spec(plan: ServePlan, server: RunningServer, image: str, mount: Mount | None) -> ContainerSpec:
    labels = {LABEL: _SERVE, _MODEL: server.model, _SERVER: server.server, _URL: server.url}
    return ContainerSpec(
        name=server.name,
        image=image,
        arguments=plan.arguments,
        environment={**plan.environment, **_secrets(plan, os.environ)},
        labels={**labels, **({_VOLUME: server.volume} if server.volume else {})},
        port=plan.server.port,
        publish=None if plan.on_host_network else (plan.address, plan.port),
        mount=mount,
        gpus=plan.gpus,
        shm_size=plan.shm_size,
        network=plan.network,
    )


def _secrets(plan: ServePlan, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets that the server gets from this process's environment."""
    names = [plan.server.key_variable, *(["HF_TOKEN"] if plan.model.hub else [])]
    return {name: environ[name] for name in names if environ.get(name)}
