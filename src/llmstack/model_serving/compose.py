"""A plan as a file for Docker Compose. Pure."""

from __future__ import annotations

from typing import Any

from llmstack.carried_image.file_index import ROOT
from llmstack.errors import UsageError
from llmstack.model_serving.serve_plan import ServePlan
from llmstack.model_serving.servers import MODEL_ROOT
from llmstack.safe_yaml import write_yaml

_HEAD = """\
# {name} on {server}: docker compose up
#
# {mount}
# With {key} in the environment, clients must send that key.
# {access}
"""
_MOUNT = "The model is a mount of its image: needs Docker 28 and Docker Compose 2.35. The image is pulled first."
_LOCAL = "To serve other machines, set that key, and use --port 0.0.0.0:{port} with llmstack serve --print compose."
_EXPOSED = "Other machines can use this server: set that key."
_HUB = "The server loads the model from the hub; nothing is mounted."


def compose_file(plan: ServePlan) -> str:
    """Return the compose file; raises UsageError if Docker cannot pull the image of the model."""
    head = _HEAD.format(
        name=plan.model.name,
        server=plan.server.name,
        mount=_HUB if plan.model.hub else _MOUNT,
        key=plan.server.key_variable,
        access=_EXPOSED if plan.exposed else _LOCAL.format(port=plan.port),
    )
    service: dict[str, Any] = {
        "image": plan.server_images[0],
        "command": [literal(each) for each in plan.arguments],
        # Without a value: that of the environment, if it is set.
        "environment": {
            **{name: literal(value) for name, value in plan.environment.items()},
            plan.server.key_variable: None,
        },
    }
    if plan.on_host_network:
        service["network_mode"] = "host"
    else:
        service["ports"] = [f"{_bracketed(plan.address)}:{plan.port}:{plan.server.port}"]
    if not plan.model.hub:
        service["volumes"] = [
            {
                "type": "image",
                "source": model_image(plan),
                "target": MODEL_ROOT,
                "image": {"subpath": ROOT},
            }
        ]
    service["shm_size"] = f"{plan.shm_size // 2**20}m"
    if plan.gpus:
        gpu = {"driver": "nvidia", "count": plan.gpus, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [gpu]}}}
    service |= {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "restart": "unless-stopped"}
    file: dict[str, Any] = {"services": {plan.object_name: service}}
    if plan.network and not plan.on_host_network:
        # A network that exists, as for `llmstack serve`: Compose does not create it.
        file["networks"] = {"default": {"name": plan.network, "external": True}}
    return head + write_yaml(file)


def model_image(plan: ServePlan) -> str:
    """Return the reference of the model's image; raises UsageError if there is none that others can pull."""
    if plan.model.image is None:
        raise UsageError(
            f"{plan.model.name}: its image is in a directory or archive, where no container tool pulls it from",
            hint="copy it to a registry, and name that: --from registry.local:5000/llm",
        )
    return plan.model.image


def check_shell(plan: ServePlan, user: str, advice: str) -> None:
    """Raise UsageError if the model's image has no base image, in which `user` runs a shell, or is in no registry."""
    image = model_image(plan)
    if not plan.model.has_base:
        raise UsageError(
            f"{image}: has no base image (--base scratch), and {user} runs a shell in it",
            hint=f"{advice}, or carry the model again with --base IMAGE",
        )


def literal(value: str) -> str:
    """Return a value that Docker Compose and Kubernetes pass on as it is: both replace variables, `$$` is a `$`."""
    return value.replace("$", "$$")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
