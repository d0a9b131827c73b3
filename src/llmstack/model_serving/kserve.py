"""A plan as a ServingRuntime and an InferenceService for KServe. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmstack.carried_image.file_index import MODELS_ROOT
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.errors import UsageError
from llmstack.model_serving.compose import check_shell, literal, model_image
from llmstack.model_serving.kubernetes import (
    RESTRICTED,
    USER,
    head,
    probes,
    resources,
    variables,
    volume_mounts,
    volumes,
)
from llmstack.model_serving.serve_plan import ServePlan
from llmstack.safe_yaml import write_yaml

# Where KServe mounts what storageUri names.
_KSERVE_ROOT = "/mnt/models"
_INITIALIZER = "kserve/storage-initializer:v0.20.0"
_MODELCAR = """\
oci:// needs enableOciModelSupport or enableModelcar in KServe's inferenceservice-config. With --native, the image is
# mounted as a volume instead: that needs KServe 0.20 and Kubernetes 1.33 with the feature gate ImageVolume."""
_NATIVE = """\
oci+native:// needs KServe 0.20, enableOciModelSupport in its inferenceservice-config, and Kubernetes 1.33 with the
# feature gate ImageVolume."""
_HUB = "hf:// downloads from the hub; the ClusterStorageContainer sets its URL, and needs KServe 0.20."


def kserve_objects(plan: ServePlan, *, native: bool = False) -> str:
    """Return the objects for KServe; `native` mounts the image as a volume of Kubernetes.

    Raises UsageError if KServe cannot read the image of the model.
    """
    name = plan.object_name
    model: dict[str, Any] = {
        "modelFormat": {"name": _format(plan)},
        "runtime": name,
        "storageUri": _storage_uri(plan, native=native),
    }
    predictor: dict[str, Any] = {"minReplicas": 1, "model": model}
    objects: list[dict[str, Any]] = [_runtime(plan), _service(name, predictor)]
    if plan.model.hub:
        predictor["storageContainerName"] = name
        objects.insert(0, _storage_container(name, plan.model.hub))
    storage = _HUB if plan.model.hub else _NATIVE if native else _MODELCAR
    return head(plan, storage) + write_yaml(*objects)


def _storage_uri(plan: ServePlan, *, native: bool) -> str:
    model = plan.model
    if model.hub:
        if model.name.count("/") != 1:
            raise UsageError(f"{model.name}: KServe's hf:// takes OWNER/NAME only", hint="leave --hub out")
        return f"hf://{model.name}" + ("" if model.revision == DEFAULT_REVISION else f":{model.revision}")
    image = model_image(plan)
    if MODELS_ROOT not in model.roots:
        raise UsageError(
            f"{image}: KServe looks for the files under /{MODELS_ROOT}, this image has them under /REPO only",
            hint="carry the model again: llmstack ferry writes both; or add --hub URL",
        )
    if not native:
        check_shell(plan, "KServe's oci://", "add --native")
    return f"{'oci+native' if native else 'oci'}://{image}"


def _service(name: str, predictor: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"predictor": predictor},
    }


def _runtime(plan: ServePlan) -> dict[str, Any]:
    """Return the server as a ServingRuntime: those of KServe do not know its image."""
    # KServe mounts or downloads the model.
    plan = replace(plan, options=replace(plan.options, root=_KSERVE_ROOT, hub=None))
    container = {
        "name": "kserve-container",
        "image": plan.server_images[0],
        "args": [literal(each) for each in plan.arguments],
        "env": variables(plan),
        "ports": [{"containerPort": plan.server.port, "protocol": "TCP"}],
        **probes(plan.server.port),
        **resources(plan),
        "securityContext": {**RESTRICTED, "runAsNonRoot": True, "runAsUser": USER},
        "volumeMounts": volume_mounts(),
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": plan.object_name},
        "spec": {
            "supportedModelFormats": [{"name": _format(plan)}],
            "containers": [container],
            "volumes": volumes(plan),
        },
    }


def _format(plan: ServePlan) -> str:
    return "safetensors" if plan.files.weights is None else "gguf"


def _storage_container(name: str, hub: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": name},
        "spec": {
            "container": {
                "name": "storage-initializer",
                "image": _INITIALIZER,
                "env": [{"name": "HF_ENDPOINT", "value": literal(hub)}],
                "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
            },
            "supportedUriFormats": [{"prefix": "hf://"}],
        },
    }
