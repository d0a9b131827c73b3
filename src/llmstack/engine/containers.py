"""Containers that run in the background, with an image as their volume."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmstack.engine.docker_engine import Engine, engine_errors
from llmstack.errors import LlmstackError, NotFoundError, UsageError

# The value of this label says what created a container or volume.
LABEL = "dev.llmstack"
_VOLUME = "model-volume"
_MODEL = f"{LABEL}.model"
# Engine API 1.48 (Docker 28) mounts directories of images.
_API_WITH_IMAGE_MOUNTS = (1, 48)
_LAST_LINES = 20
_STOP_SECONDS = 10
_MAX_LINE = 2000


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of an image, or a volume with a copy of it, mounted read-only."""

    kind: Literal["image", "volume"]
    source: str
    target: str
    sub_path: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the mount as the engine takes it."""
        options: dict[str, Any]
        if self.kind == "image":
            options = {"ImageOptions": {"Subpath": self.sub_path}}
        else:
            options = {"VolumeOptions": {"NoCopy": True}}
        return {"Type": self.kind, "Source": self.source, "Target": self.target, "ReadOnly": True, **options}


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to run. `port` is published on `publish`: an address and a port of the engine's machine.

    `environment` may contain secrets. `network` is the network to join, None for the engine's default.
    """

    name: str
    image: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    labels: Mapping[str, str]
    port: int
    publish: tuple[str, int] | None
    mount: Mount | None
    gpus: int
    shm_size: int
    network: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the container as the engine takes it."""
        port = f"{self.port}/tcp"
        host: dict[str, Any] = {
            "ShmSize": self.shm_size,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Mounts": [self.mount.to_json()] if self.mount else [],
        }
        if self.network:
            host["NetworkMode"] = self.network
        if self.publish:
            host["PortBindings"] = {port: [{"HostIp": self.publish[0], "HostPort": str(self.publish[1])}]}
        if self.gpus:
            host["DeviceRequests"] = [{"Count": self.gpus, "Capabilities": [["gpu"]]}]
        return {
            "Image": self.image,
            "Cmd": list(self.arguments),
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "Labels": dict(self.labels),
            "ExposedPorts": {port: {}},
            "HostConfig": host,
        }


@dataclass(frozen=True, slots=True)
class ContainerState:
    """Whether a container runs, and why not: `exit_code`, and whether it ran out of memory."""

    running: bool
    exit_code: int
    out_of_memory: bool


@dataclass(frozen=True, slots=True)
class RunningContainer:
    """A container, running or not, that has a label of llmstack; `created` is in seconds since 1970."""

    id: str
    name: str
    image: str
    running: bool
    status: str
    created: int
    labels: Mapping[str, str]


def has_gpus(engine: Engine) -> bool:
    """Tell whether containers can use NVIDIA GPUs: by NVIDIA's runtime, or by devices of CDI."""
    with engine_errors("asking for GPUs"):
        info: dict[str, Any] = engine.client.api.info()
    devices = info.get("DiscoveredDevices") or []
    return "nvidia" in (info.get("Runtimes") or {}) or any("nvidia.com/gpu" in str(each) for each in devices)


def mounts_images(engine: Engine) -> bool:
    """Tell whether the engine can mount images."""
    return tuple(map(int, engine.client.api.api_version.split("."))) >= _API_WITH_IMAGE_MOUNTS


def start_container(engine: Engine, spec: ContainerSpec) -> None:
    """Create and start a container; one of the same name that has ended is replaced.

    Raises UsageError if its port is in use, NotFoundError, UnavailableError.
    """
    for old in labelled(engine, spec.labels[LABEL]):
        if old.name == spec.name and not old.running:
            remove_container(engine, old.id)
    with _start_errors(spec), engine_errors(f"starting {spec.name}"):
        engine.client.api.start(_create(engine, spec.to_json(), spec.name))


def _create(engine: Engine, config: Mapping[str, Any], name: str) -> str:
    """Create a container and return its id. docker-py's own types do not know mounts of images."""
    return str(engine.client.api.create_container_from_config(config, name)["Id"])  # type: ignore[no-untyped-call]  # missing in its types


@contextlib.contextmanager
def _start_errors(spec: ContainerSpec) -> Iterator[None]:
    """Give the errors that users cause their own words: the engine only says it in its message."""
    try:
        yield
    except LlmstackError as error:
        text = error.message.lower()
        if "already allocated" in text or "address already in use" in text:
            port = spec.publish[1] if spec.publish else spec.port
            raise port_in_use(port) from error
        if spec.gpus and ("gpu" in text or "nvidia" in text):
            error.hint = "install NVIDIA's container toolkit, or use the CPU: --gpus 0"
        raise


def port_in_use(port: int) -> UsageError:
    """Return the error for a port that another program uses."""
    return UsageError(f"port {port}: is in use", hint=f"choose another one: --port {port + 1}")


def container_state(engine: Engine, name: str) -> ContainerState:
    """Return the state of a container; raises NotFoundError if it was removed."""
    with engine_errors(f"container {name}"):
        state = engine.client.api.inspect_container(name)["State"]
    return ContainerState(bool(state["Running"]), int(state["ExitCode"]), bool(state.get("OOMKilled")))


def wait_container(engine: Engine, name: str) -> None:
    """Wait until a container ends; one that was removed has ended."""
    with contextlib.suppress(NotFoundError), engine.no_timeout(), engine_errors(f"container {name}"):
        engine.client.api.wait(name, timeout=None)


def last_lines(engine: Engine, name: str, count: int = _LAST_LINES) -> list[str]:
    """Return the last lines of a container's output; none if it cannot be read."""
    with contextlib.suppress(LlmstackError), engine_errors(f"container {name}"):
        output = engine.client.api.logs(name, tail=count)
        lines = deque(output.decode(errors="replace").split("\n"), maxlen=count + 1)
        # Of a progress bar, only the last state.
        shown = [line.rstrip("\r").rpartition("\r")[2].rstrip()[:_MAX_LINE] for line in lines]
        return [line for line in shown if line]
    return []


def labelled(engine: Engine, value: str) -> list[RunningContainer]:
    """Return the containers that have this value of LABEL, the oldest first."""
    with engine_errors("listing containers"):
        found = engine.client.api.containers(all=True, filters={"label": f"{LABEL}={value}"})
    listed = [
        RunningContainer(
            id=each["Id"],
            name=each["Names"][0].lstrip("/") if each.get("Names") else each["Id"][:12],
            image=each["Image"],
            running=each["State"] == "running",
            status=each["Status"],
            created=int(each["Created"]),
            labels=each.get("Labels") or {},
        )
        for each in found
    ]
    return sorted(listed, key=lambda each: each.created)


def remove_container(engine: Engine, name: str) -> None:
    """Stop a container and remove it; one that does not exist is no error.

    It is renamed first: who waits for it under its name learns that it was removed, not that it has failed.
    """
    with contextlib.suppress(LlmstackError), engine_errors(f"stopping {name}"):
        stopping = f"{name}-stopping"
        engine.client.api.rename(name, stopping)
        name = stopping
    with contextlib.suppress(NotFoundError), engine_errors(f"removing {name}"):
        engine.client.api.stop(name, timeout=_STOP_SECONDS)
        engine.client.api.remove_container(name, force=True, v=True)


def fill_volume(engine: Engine, image: str, directory: str, model: str, note: Callable[[str], None]) -> str:
    """Return the name of a volume with a copy of a directory of an image of `model`.

    The engine copies the directory when a container of the image with an empty volume is created. That container
    stays: the volume is complete if it exists, and is not pruned. Raises NotFoundError, UnavailableError.
    """
    volume = f"llmstack-model-{engine.inspect(image)['Id'].rpartition(':')[2][:24]}"
    if any(each.name == volume for each in labelled(engine, _VOLUME)):
        return volume
    note(f"copying {image} into a volume once: this Docker Engine cannot mount images, Docker 28 can")
    api, labels = engine.client.api, {LABEL: _VOLUME, _MODEL: model}
    with engine.no_timeout(), engine_errors(f"copying the model of {image} into the volume {volume}"):
        # What an interrupted copy has left.
        with contextlib.suppress(NotFoundError), engine_errors():
            api.remove_volume(volume)
        api.create_volume(volume, labels=labels)
        try:
            # An image without a command needs one. It is never run, so it need not exist.
            mount = {"Type": "volume", "Source": volume, "Target": directory}
            config = {"Image": image, "Cmd": ["-"], "Labels": labels, "HostConfig": {"Mounts": [mount]}}
            _create(engine, config, volume)
        except BaseException:
            with contextlib.suppress(LlmstackError):
                remove_volume(engine, volume)
            raise
    return volume


def filled_volumes(engine: Engine, model: str) -> list[str]:
    """Return the volumes that `fill_volume` filled for a model."""
    return [each.name for each in labelled(engine, _VOLUME) if each.labels.get(_MODEL) == model]


def remove_volume(engine: Engine, volume: str) -> None:
    """Remove a volume that `fill_volume` filled; raises UnavailableError if a container uses it."""
    remove_container(engine, volume)
    with contextlib.suppress(NotFoundError), engine_errors(f"removing the volume {volume}"):
        engine.client.api.remove_volume(volume)
