"""A plan as a Deployment and a Service for Kubernetes. Pure."""

from __future__ import annotations

import shlex
from typing import Any

from llmstack.carried_image.file_index import ROOT
from llmstack.model_serving.compose import check_shell, literal, model_image
from llmstack.model_serving.serve_plan import ServePlan
from llmstack.model_serving.servers import HEALTH_PATH, MODEL_ROOT
from llmstack.safe_yaml import write_yaml

# Of the images that `llmstack build` makes; they also run with any other.
USER = 2000
_HEAD = """\
# {name} on {server}: kubectl apply --filename FILE
#
# {how}
# With a Secret {object_name}-key, clients must send its key:
#   kubectl create secret generic {object_name}-key --from-literal api-key=KEY
"""
_MOUNT = """\
The model is a volume made of its image: needs Kubernetes 1.33 with the feature gate ImageVolume (1.35 enables it by
# default). For older clusters: llmstack serve --print kubernetes --init-container"""
_COPY = "An init container copies the model out of its image. The image must have a shell, as those with busybox do."
_HUB = "The server loads the model from the hub; nothing is mounted."
# A writable directory: the root file system is read-only.
_TMP = "/tmp"  # noqa: S108 - in the container
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def kubernetes_objects(plan: ServePlan, *, init_container: bool = False) -> str:
    """Return the Deployment and the Service; raises UsageError if Kubernetes cannot pull the image of the model.

    `init_container` copies the files that the server needs, instead of mounting the image.
    """
    mount = _HUB if plan.model.hub else _COPY if init_container else _MOUNT
    labels = {"app.kubernetes.io/name": plan.object_name, "app.kubernetes.io/component": "llm"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": plan.object_name, "labels": labels},
        "spec": {
            "replicas": 1,
            # A second pod would need GPUs of its own during an update.
            "strategy": {"type": "Recreate"},
            "progressDeadlineSeconds": 1800,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod(plan, init_container=init_container)},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": plan.object_name, "labels": labels},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": plan.port, "targetPort": "http"}]},
    }
    return head(plan, mount) + write_yaml(deployment, service)


def head(plan: ServePlan, how: str) -> str:
    """Return the first lines of a file; `how` says how the server gets the model, and what that needs."""
    return _HEAD.format(name=plan.model.name, server=plan.server.name, how=how, object_name=plan.object_name)


def mounting_pod(name: str, image: str) -> str:
    """Return a pod that mounts the files of an image at `/NAME`, and lists them. The image has a shell itself."""
    container = {
        "name": "main",
        "image": image,
        "command": ["ls", "-l", f"/{name}"],
        "volumeMounts": [{"name": name, "mountPath": f"/{name}", "subPath": ROOT, "readOnly": True}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-reader"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [{"name": name, "image": {"reference": image}}],
        },
    }
    return write_yaml(pod)


def _pod(plan: ServePlan, *, init_container: bool) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # Otherwise a Service named like a setting of the server sets that variable.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan, init_container=init_container)],
        "volumes": volumes(plan),
    }
    if not plan.model.hub:
        volume = {"emptyDir": {}} if init_container else {"image": {"reference": model_image(plan)}}
        pod["volumes"].append({"name": "model", **volume})
        if init_container:
            pod["initContainers"] = [_copy(plan)]
    return pod


def _container(plan: ServePlan, *, init_container: bool) -> dict[str, Any]:
    mounts = volume_mounts()
    if not plan.model.hub:
        sub_path = {} if init_container else {"subPath": ROOT}
        mounts.append({"name": "model", "mountPath": MODEL_ROOT, **sub_path, "readOnly": True})
    return {
        "name": "server",
        "image": plan.server_images[0],
        "args": [literal(each) for each in plan.arguments],
        "env": variables(plan),
        "ports": [{"name": "http", "containerPort": plan.server.port}],
        **probes("http"),
        **resources(plan),
        "securityContext": RESTRICTED,
        "volumeMounts": mounts,
    }


def _copy(plan: ServePlan) -> dict[str, Any]:
    """Return the init container: it copies the files that the server opens, or all."""
    check_shell(plan, "the init container", "leave --init-container out")
    return {
        "name": "copy",
        "image": model_image(plan),
        "command": ["sh", "-c", literal(_copy_command(plan.files.needed))],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "model", "mountPath": MODEL_ROOT}],
    }


def _copy_command(paths: tuple[str, ...]) -> str:
    if not paths:
        return f"cp -R /{ROOT}/. {MODEL_ROOT}/"
    folders = sorted({path.rpartition("/")[0] for path in paths} - {""})
    made = [f"mkdir -p {shlex.quote(f'{MODEL_ROOT}/{folder}')}" for folder in folders]
    copied = [f"cp {shlex.quote(f'/{ROOT}/{path}')} {shlex.quote(f'{MODEL_ROOT}/{path}')}" for path in paths]
    return " && ".join(made + copied)


def variables(plan: ServePlan) -> list[dict[str, Any]]:
    """Return the variables of the server's container; the API key comes from an optional Secret."""
    writable = {"HOME": _TMP, "HF_HOME": f"{_TMP}/huggingface"}
    values = [{"name": name, "value": literal(value)} for name, value in (writable | plan.environment).items()]
    key = {"name": f"{plan.object_name}-key", "key": "api-key", "optional": True}
    return [*values, {"name": plan.server.key_variable, "valueFrom": {"secretKeyRef": key}}]


def volumes(plan: ServePlan) -> list[dict[str, Any]]:
    """Return the volumes of a server's pod, without that of the model."""
    return [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(plan.shm_size)}},
    ]


def volume_mounts() -> list[dict[str, Any]]:
    """Return where the server's container mounts `volumes`."""
    return [{"name": "tmp", "mountPath": _TMP}, {"name": "shm", "mountPath": "/dev/shm"}]  # noqa: S108 - in the container


def probes(port: str | int) -> dict[str, Any]:
    """Return the probes of the server's container: loading may take ten minutes."""
    get = {"httpGet": {"path": HEALTH_PATH, "port": port}}
    return {
        "startupProbe": {**get, "periodSeconds": 10, "failureThreshold": 60},
        "readinessProbe": {**get, "periodSeconds": 5},
    }


def resources(plan: ServePlan) -> dict[str, Any]:
    """Return the resources of the server's container."""
    return {"resources": {"limits": {"nvidia.com/gpu": plan.gpus}}} if plan.gpus else {}


def _quantity(size: int) -> str:
    """Return a size in bytes as a quantity of Kubernetes."""
    return f"{size // 2**30}Gi" if size % 2**30 == 0 else str(size)
