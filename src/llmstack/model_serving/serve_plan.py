"""What was asked for and what will run: a ServeRequest and a ServedModel become a ServePlan. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llmstack.carried_image.file_index import ROOT
from llmstack.carried_image.gguf_files import RepoFile
from llmstack.carried_image.naming import DEFAULT_REVISION, Namespace, tag_of
from llmstack.errors import UsageError
from llmstack.model_serving.model_files import ModelFiles, ServerName, choose_files
from llmstack.model_serving.servers import SERVERS, Server, ServerOptions, arguments, environment
from llmstack.settings import parse_size

LOCALHOST = "127.0.0.1"
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - in the container, or what the user has asked for
DEFAULT_PORT = 8000
DEFAULT_SHM_SIZE = "16GiB"

_NOT_IN_NAME = re.compile(r"[^a-z0-9]+")
# Of a Kubernetes Service; what Kubernetes adds to the names of pods still fits.
_MAX_NAME = 50


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """How to serve a model: what the options of the command line say. Raises UsageError for an invalid one.

    `gpus` is None for one GPU where there are any. `server_image` replaces the image of the recipe. `listen` is
    `[ADDRESS:]PORT`. `in_cluster` is true for pods, which have the network of the cluster. `extra` are further
    arguments for the server.
    """

    server: ServerName | None = None
    file: str | None = None
    listen: str = str(DEFAULT_PORT)
    context_length: int | None = None
    gpus: int | None = None
    shm_size: str = DEFAULT_SHM_SIZE
    server_image: str | None = None
    network: str | None = None
    in_cluster: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the options before any model is looked for."""
        _parse_listen(self.listen)
        parse_size(self.shm_size, "--shm-size")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model to serve: its files, and its image or the hub that has it.

    `files` is None if they are not known. `in_parts` are the files that the image has in parts only. `image` is
    what Docker and Kubernetes call the image; None if they cannot pull it. `roots` are the directories of the image
    with the files. `has_base` is false if the image has the files only, so that it has no shell.
    """

    name: str
    revision: str = DEFAULT_REVISION
    files: tuple[RepoFile, ...] | None = field(default=None, repr=False)
    in_parts: frozenset[str] = frozenset()
    image: str | None = None
    hub: str | None = None
    roots: tuple[str, ...] = (ROOT,)
    has_base: bool = True


@dataclass(frozen=True, slots=True)
class ServePlan:
    """What will run.

    `server_images` are the images to try, in order; those without a registry are in the Docker Engine only. `extra`
    are further arguments for the server.
    """

    model: ServedModel
    options: ServerOptions
    server_images: tuple[str, ...]
    address: str
    port: int
    shm_size: int
    network: str | None = None
    extra: tuple[str, ...] = ()

    @property
    def files(self) -> ModelFiles:
        """The files that the server loads."""
        return self.options.files

    @property
    def server(self) -> Server:
        """The server."""
        return SERVERS[self.files.server]

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return self.options.gpus

    @property
    def arguments(self) -> list[str]:
        """The arguments of the server's image. The last ones take precedence."""
        return [*arguments(self.options), *self.extra]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the server's container, without its API key."""
        return environment(self.options)

    @property
    def on_host_network(self) -> bool:
        """Tell whether the server listens in the network of the host, without a published port."""
        return self.network == "host"

    @property
    def container(self) -> str:
        """The name of the container in the Docker Engine; the port makes it unique among running ones."""
        tag = tag_of(self.model.name, self.model.revision)
        return f"llmstack-{re.sub(r'[^A-Za-z0-9_.-]', '-', tag)[:_MAX_NAME]}-{self.port}"

    @property
    def object_name(self) -> str:
        """The name of the objects in Kubernetes."""
        name = _NOT_IN_NAME.sub("-", tag_of(self.model.name, self.model.revision).lower())[:_MAX_NAME].strip("-")
        # The name of a Service starts with a letter.
        return name if name[:1].isalpha() else f"model-{name}"

    @property
    def exposed(self) -> bool:
        """Tell whether other machines reach the server."""
        return not _is_loopback(self.address)

    def url(self, host: str | None = None) -> str:
        """Return the URL of the server, at `host` if it listens on all addresses."""
        name = (host or LOCALHOST) if self.address in {ALL_ADDRESSES, "::"} else self.address
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}"

    def curl(self, url: str, *, with_key: bool = False) -> str:
        """Return a command that asks the server for a chat completion."""
        body = {"model": self.model.name, "messages": [{"role": "user", "content": "Hello"}]}
        key = f' -H "Authorization: Bearer ${self.server.key_variable}"' if with_key else ""
        sent = f"-H 'Content-Type: application/json'{key} -d {shlex.quote(json.dumps(body))}"
        return f"curl {url}/v1/chat/completions {sent}"


def make_plan(model: ServedModel, request: ServeRequest, namespaces: Sequence[Namespace], *, gpus: int) -> ServePlan:
    """Return what will run; `gpus` is the number of GPUs if the request does not say it.

    Raises UsageError with the reason if the model cannot be served, or an option is invalid.
    """
    files = _choose_files(model, request)
    server = SERVERS[files.server]
    count = gpus if request.gpus is None else request.gpus
    address, port = _parse_listen(request.listen)
    on_host = request.network == "host"
    _check_hub(model, server, on_host=on_host, in_cluster=request.in_cluster)
    options = ServerOptions(
        repo_id=model.name,
        revision=model.revision,
        files=files,
        listen=(address, port) if on_host else (ALL_ADDRESSES, server.port),
        hub=model.hub,
        gpus=count,
        context_length=request.context_length,
    )
    return ServePlan(
        model=model,
        options=options,
        server_images=(request.server_image,) if request.server_image else _server_images(server, count, namespaces),
        address=address,
        port=port,
        shm_size=parse_size(request.shm_size, "--shm-size"),
        network=request.network,
        extra=request.extra,
    )


def _choose_files(model: ServedModel, request: ServeRequest) -> ModelFiles:
    if model.files is None:
        if request.server == "vllm":
            return ModelFiles("vllm")
        if request.server == "llama.cpp" and request.file:
            return ModelFiles("llama.cpp", request.file, needed=(request.file,))
        raise UsageError(
            f"{model.name}: has no file index, so its files are not known",
            hint="add --engine vllm, or --engine llama.cpp --file PATH",
        )
    files = choose_files(model.name, model.files, request.server, request.file, model.in_parts)
    in_parts = sorted(model.in_parts.intersection(files.needed) if files.needed else model.in_parts)
    if in_parts:
        raise UsageError(
            f"{model.name}: {in_parts[0]} is in the image in parts, which no server can load",
            hint="serve it through a hub, which joins the parts: llmstack hub, then llmstack serve --hub URL",
        )
    return files


def _server_images(server: Server, gpus: int, namespaces: Sequence[Namespace]) -> tuple[str, ...]:
    """Return the names that `llmstack build` gives the image, with and without a namespace."""
    prefixes = [*(f"{namespace}/" for namespace in namespaces if namespace.registry), ""]
    return tuple(f"{prefix}{server.name}:{variant}" for variant in server.variants(gpus) for prefix in prefixes)


def _check_hub(model: ServedModel, server: Server, *, on_host: bool, in_cluster: bool) -> None:
    if not model.hub:
        return
    if server.name == "llama.cpp" and model.revision != DEFAULT_REVISION:
        raise UsageError(
            f"{model.name}@{model.revision}: llama.cpp loads only main from a hub",
            hint="leave --hub out to serve a revision from its image",
        )
    host = urlsplit(model.hub).hostname or ""
    if _is_loopback(host) and not on_host:
        raise UsageError(
            f"--hub {model.hub}: in the server's container, {host} is the container itself",
            hint="use the address of the hub's machine" + ("" if in_cluster else ", or add --network host"),
        )


def _parse_listen(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
        raise UsageError(f"--port {text}: must be PORT or ADDRESS:PORT", hint="for example --port 8000")
    return address.strip("[]") or LOCALHOST, int(port)


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
