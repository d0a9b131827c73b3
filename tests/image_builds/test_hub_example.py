"""example/hub: the manifests are valid for Kubernetes, and agree with each other, the image and the settings."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from llmstack.image_builds.recipe import images_folder, load_recipes
from llmstack.settings import Settings, load_settings

EXAMPLE = Path(__file__).parents[2] / "example" / "hub"
OBJECTS = list(yaml.safe_load_all((EXAMPLE / "kubernetes.yaml").read_text()))
COMPOSE = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())
[PORT] = load_recipes(images_folder())["hub"].ports
EXPECTED = Settings(namespace="registry:5000/llm", plain_http=("registry:5000",))


def find(kind, name):
    [found] = [item for item in OBJECTS if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def pod(name):
    return find("Deployment", name)["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.28", "1.36"])
@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_manifest_is_valid_for_kubernetes(item, version):
    kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("name", ["registry", "hub"])
def test_service_selects_its_pods(name):
    deployment, service = find("Deployment", name), find("Service", name)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    [container] = pod(name)["containers"]
    [port], [target] = container["ports"], service["spec"]["ports"]
    assert (target["targetPort"], target["port"]) == (port["name"], port["containerPort"])


def test_hub_replicas_share_only_the_registry():
    assert find("Deployment", "hub")["spec"]["replicas"] == 2
    assert [set(volume) - {"name"} for volume in pod("hub")["volumes"]] == [{"secret"}]
    [container] = pod("hub")["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [PORT]
    assert {container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/healthz"}
    assert COMPOSE["services"]["hub"]["ports"] == [f"{PORT}:{PORT}"]


@pytest.mark.parametrize("name", ["registry", "hub"])
def test_pods_have_minimal_privileges(name):
    [container] = pod(name)["containers"]
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert pod(name)["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_compose_and_kubernetes_set_the_same_settings(tmp_path):
    [container] = pod("hub")["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert variables.pop("DOCKER_CONFIG") == container["volumeMounts"][0]["mountPath"]
    assert variables == COMPOSE["services"]["hub"]["environment"]
    assert load_settings(environ=variables, folder=tmp_path) == EXPECTED
    # Both name the registry as the Service or the compose service does.
    assert find("Service", "registry")["spec"]["ports"][0]["port"] == 5000
    assert "registry" in COMPOSE["services"]
