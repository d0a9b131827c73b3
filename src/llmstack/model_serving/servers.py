"""The servers that serve models: llama.cpp and vLLM, as the recipes of the same names build them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmstack.model_serving.model_files import ModelFiles, ServerName

# Where the server finds the model in its container.
MODEL_ROOT = "/model"
HEALTH_PATH = "/health"


@dataclass(frozen=True, slots=True)
class Server:
    """A server: the recipe of its image, the variants to try in order, its port and the variable with its API key."""

    name: ServerName
    port: int
    cpu_variants: tuple[str, ...]
    gpu_variants: tuple[str, ...]
    port_variable: str
    key_variable: str

    def variants(self, gpus: int) -> tuple[str, ...]:
        """Return the variants of the recipe for a number of GPUs."""
        return self.gpu_variants if gpus else self.cpu_variants


SERVERS: Mapping[ServerName, Server] = {
    "llama.cpp": Server(
        name="llama.cpp",
        port=8080,
        cpu_variants=("cpu",),
        gpu_variants=("cuda13", "cuda11.8"),
        port_variable="LLAMA_ARG_PORT",
        key_variable="LLAMA_API_KEY",
    ),
    "vllm": Server(
        name="vllm",
        port=8000,
        cpu_variants=("cpu",),
        gpu_variants=("cuda13", "cuda11.8"),
        port_variable="PORT",
        key_variable="VLLM_API_KEY",
    ),
}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server loads its model.

    `hub` is the URL of the hub to load it from; None if it is in `root`. `listen` is the address and the port in the
    container.
    """

    repo_id: str
    revision: str
    files: ModelFiles
    listen: tuple[str, int]
    root: str = MODEL_ROOT
    hub: str | None = None
    gpus: int = 0
    context_length: int | None = None


def arguments(options: ServerOptions) -> list[str]:
    """Return the arguments of the server's image."""
    made = _llama_arguments(options) if options.files.server == "llama.cpp" else _vllm_arguments(options)
    address, port = options.listen
    # Not every image of a server has the same defaults.
    return [*made, "--host", address, "--port", str(port)]


def environment(options: ServerOptions) -> dict[str, str]:
    """Return the variables of the server's container; none is a secret."""
    made: dict[str, str] = {}
    if options.hub:
        # The images are offline by default.
        made |= {"HF_ENDPOINT": options.hub, "HF_HUB_OFFLINE": "0"}
    if options.files.server == "vllm" and not options.gpus:
        # In GB. vLLM's own default is half of the memory of the machine.
        made["VLLM_CPU_KVCACHE_SPACE"] = "4"
    server, (_, port) = SERVERS[options.files.server], options.listen
    if port != server.port:
        # For the health check of the image.
        made[server.port_variable] = str(port)
    return made


def _llama_arguments(options: ServerOptions) -> list[str]:
    files, weights = options.files, options.files.weights or ""
    if options.hub:
        # It finds the encoder of a multimodal model itself.
        made = ["--hf-repo", options.repo_id, "--hf-file", weights]
    else:
        made = ["--model", f"{options.root}/{weights}"]
        if files.encoder:
            made += ["--mmproj", f"{options.root}/{files.encoder}"]
    made += ["--alias", options.repo_id]
    if options.context_length:
        made += ["--ctx-size", str(options.context_length)]
    return made


def _vllm_arguments(options: ServerOptions) -> list[str]:
    made = [options.repo_id, "--revision", options.revision] if options.hub else [options.root]
    made += ["--served-model-name", options.repo_id]
    if options.gpus > 1:
        made += ["--tensor-parallel-size", str(options.gpus)]
    if options.context_length:
        made += ["--max-model-len", str(options.context_length)]
    return made
