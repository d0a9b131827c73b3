"""What --print prints is valid for Kubernetes, KServe and Docker Compose, and example/serve shows it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from llmstack.carried_image.naming import Namespace
from llmstack.errors import UsageError
from llmstack.image_builds.recipe import images_folder, load_recipes
from llmstack.model_serving.compose import compose_file
from llmstack.model_serving.find_model import find_image
from llmstack.model_serving.kserve import kserve_objects
from llmstack.model_serving.kubernetes import kubernetes_objects, mounting_pod
from llmstack.model_serving.serve_plan import ServedModel, ServePlan, ServeRequest, make_plan
from llmstack.model_serving.servers import SERVERS, ServerOptions, environment
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.repository import Registries
from tests.model_serving.test_model_files import files
from tests.support.carried import carry
from tests.support.cli import run_llmstack

EXAMPLE = Path(__file__).parents[2] / "example" / "serve"
CRDS = {
    kind: jsonschema.Draft202012Validator(schema)
    for kind, schema in json.loads((Path(__file__).parent / "kserve_crds.json").read_text()).items()
    if kind != "comment"
}
VERSIONS = ("1.31", "1.33", str(kubernetes_validate.latest_version()))
NAMESPACE = Namespace.parse("registry.local:5000/llm")
HUB = "http://hub.llm:8080"
FILES = {
    "Qwen/Qwen3-8B": files("config.json", "model.safetensors", "tokenizer.json"),
    "Qwen/Qwen3-8B-GGUF": files("README.md", "Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q8_0.gguf"),
}
ODD_FILES = {"org/odd": files("a b/$HOME-$(HOME)-Q4_K_M.gguf", "README.md")}


def plan(
    name: str = "Qwen/Qwen3-8B",
    *,
    hub: str | None = None,
    roots: tuple[str, ...] = ("REPO", "models"),
    has_base: bool = True,
    **asked: Any,
) -> ServePlan:
    image = None if hub else f"{NAMESPACE}/models:{name.replace('/', '--')}"
    model = ServedModel(name, "main", (FILES | ODD_FILES)[name], image=image, hub=hub, roots=roots, has_base=has_base)
    return make_plan(model, ServeRequest(**asked), [NAMESPACE], gpus=1)


ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"gpus": 0, "context_length": 4096, "extra": ("--seed", "1")},
    {"gpus": 8, "shm_size": "1000000000", "listen": "[::1]:80", "server_image": "vllm/vllm-openai:v0.32.0"},
)
PLANS = [plan(name, hub=hub, **asked) for name, hub, asked in itertools.product(FILES, (None, HUB), ASKED)]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_objects_are_valid(version: str):
    # Half of the combinations have each value of each option: validation is slow.
    for number, each in enumerate(PLANS):
        for item in yaml.safe_load_all(kubernetes_objects(each, init_container=number % 2 == 1)):
            kubernetes_validate.validate(item, version, strict=True)


def test_the_pod_of_the_hub_pages_is_valid():
    kubernetes_validate.validate(yaml.safe_load(mounting_pod("dataset", "a.lab/b:c")), VERSIONS[-1], strict=True)


def test_kserve_objects_are_valid():
    for each, native in itertools.product(PLANS, (False, True)):
        for item in yaml.safe_load_all(kserve_objects(each, native=native)):
            CRDS[item["kind"]].validate(item)


def test_a_wrong_field_is_not_valid_for_kserve():
    *_, service = yaml.safe_load_all(kserve_objects(plan()))
    service["spec"]["predictor"]["model"]["storageUrl"] = "oci://x"
    with pytest.raises(jsonschema.ValidationError):
        CRDS["InferenceService"].validate(service)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("compose.yaml", compose_file(plan("Qwen/Qwen3-8B-GGUF"))),
        ("kubernetes.yaml", kubernetes_objects(plan())),
        ("kserve.yaml", kserve_objects(plan())),
    ],
)
def test_the_examples_are_what_is_printed(name: str, printed: str):
    assert (EXAMPLE / name).read_text() == printed


def test_the_pod_has_what_a_server_needs():
    deployment, service = yaml.safe_load_all(kubernetes_objects(plan(gpus=2)))
    pod = deployment["spec"]["template"]["spec"]
    [server] = pod["containers"]
    assert server["image"] == "registry.local:5000/llm/vllm:cuda13"
    assert server["args"] == [
        *("/model", "--served-model-name", "Qwen/Qwen3-8B", "--tensor-parallel-size", "2"),
        *("--host", "0.0.0.0", "--port", "8000"),
    ]
    assert server["resources"] == {"limits": {"nvidia.com/gpu": 2}}
    probe = server["startupProbe"]
    assert (probe["httpGet"]["path"], probe["periodSeconds"] * probe["failureThreshold"]) == ("/health", 600)
    assert pod["securityContext"]["runAsNonRoot"]
    assert server["securityContext"]["readOnlyRootFilesystem"]
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes == {
        "tmp": {"emptyDir": {}},
        "shm": {"emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
        "model": {"image": {"reference": "registry.local:5000/llm/models:Qwen--Qwen3-8B"}},
    }
    [model] = [mount for mount in server["volumeMounts"] if mount["name"] == "model"]
    assert model == {"name": "model", "mountPath": "/model", "subPath": "REPO", "readOnly": True}
    [port] = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (8000, server["ports"][0]["name"])
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]


def test_an_init_container_copies_the_needed_files_only():
    [pod] = [
        item["spec"]["template"]["spec"]
        for item in yaml.safe_load_all(kubernetes_objects(plan("org/odd"), init_container=True))
        if item["kind"] == "Deployment"
    ]
    [copy] = pod["initContainers"]
    # Kubernetes replaces $(HOME), and makes $$ a $.
    path = "a b/$$HOME-$$(HOME)-Q4_K_M.gguf"
    assert copy["command"][2] == f"mkdir -p '/model/a b' && cp '/REPO/{path}' '/model/{path}'"
    assert {"name": "model", "emptyDir": {}} in pod["volumes"]


def test_kserve_reads_the_image_or_the_hub():
    def documents(*arguments: Any, **options: Any) -> dict[str, Any]:
        return {item["kind"]: item for item in yaml.safe_load_all(kserve_objects(*arguments, **options))}

    def storage(found: dict[str, Any]) -> str:
        return str(found["InferenceService"]["spec"]["predictor"]["model"]["storageUri"])

    image = "registry.local:5000/llm/models:Qwen--Qwen3-8B"
    assert storage(documents(plan())) == f"oci://{image}"
    assert storage(documents(plan(), native=True)) == f"oci+native://{image}"
    hub = documents(plan(hub=HUB))
    assert storage(hub) == "hf://Qwen/Qwen3-8B"
    [variable] = hub["ClusterStorageContainer"]["spec"]["container"]["env"]
    assert variable == {"name": "HF_ENDPOINT", "value": HUB}
    for found in (hub, documents(plan())):
        [server] = found["ServingRuntime"]["spec"]["containers"]
        assert server["args"][0] == "/mnt/models"


def test_kserve_needs_files_under_models():
    with pytest.raises(UsageError, match="looks for the files under /models"):
        kserve_objects(plan(roots=("REPO",)))


def test_compose_mounts_the_image_and_publishes_on_localhost():
    [service] = yaml.safe_load(compose_file(plan("Qwen/Qwen3-8B-GGUF", context_length=512)))["services"].values()
    assert service["ports"] == ["127.0.0.1:8000:8080"]
    assert service["command"] == [
        *("--model", "/model/Qwen3-8B-Q4_K_M.gguf", "--alias", "Qwen/Qwen3-8B-GGUF", "--ctx-size", "512"),
        *("--host", "0.0.0.0", "--port", "8080"),
    ]
    [volume] = service["volumes"]
    assert (volume["type"], volume["image"]) == ("image", {"subpath": "REPO"})
    assert service["environment"] == {"LLAMA_API_KEY": None}
    [server] = yaml.safe_load(compose_file(plan(hub=HUB)))["services"].values()
    assert server["environment"] == {"HF_ENDPOINT": HUB, "HF_HUB_OFFLINE": "0", "VLLM_API_KEY": None}
    assert "volumes" not in server


def test_no_tool_replaces_variables_in_arguments():
    """Docker Compose replaces $X and ${X}, Kubernetes $(X); for both, $$ is a $."""
    odd = plan("org/odd", extra=("--prompt", "$HOME ${X} $(X) $$"))
    [compose] = yaml.safe_load(compose_file(odd))["services"].values()
    deployment, _ = yaml.safe_load_all(kubernetes_objects(odd))
    [pod] = deployment["spec"]["template"]["spec"]["containers"]
    runtime, _ = yaml.safe_load_all(kserve_objects(odd))
    [kserve] = runtime["spec"]["containers"]
    for arguments in (compose["command"], pod["args"], kserve["args"]):
        assert arguments[1].endswith("/a b/$$HOME-$$(HOME)-Q4_K_M.gguf")
        assert arguments[-1] == "$$HOME $${X} $$(X) $$$$"
    hub = plan("org/odd", hub="http://hub.llm:8080/$(X)")
    [compose] = yaml.safe_load(compose_file(hub))["services"].values()
    assert compose["environment"]["HF_ENDPOINT"] == "http://hub.llm:8080/$$(X)"


@pytest.mark.parametrize("style", ["kubernetes", "kserve"])
def test_pods_do_not_use_the_network_of_the_host(style: str):
    """The server would listen on 127.0.0.1 only, so that no probe reaches it."""
    done = run_llmstack("serve", "org/m", "--print", style, "--network", "host")
    assert (done.code, f"--network: cannot be used with --print {style}" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("option", ["--detach", "--rm", "--json"])
def test_options_that_would_be_ignored_are_refused(option: str):
    done = run_llmstack("serve", "org/m", "--print", "compose", option)
    assert (done.code, f"{option}: cannot be used with --print compose" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(("in_cluster", "advised"), [(True, False), (False, True)])
def test_a_hub_at_localhost_is_refused_with_advice_that_works(in_cluster: bool, advised: bool):
    with pytest.raises(UsageError, match="is the container itself") as caught:
        plan(hub="http://127.0.0.1:8080", in_cluster=in_cluster)
    assert ("--network host" in str(caught.value.hint)) == advised


def test_an_image_without_a_shell_is_mounted_only(tmp_path: Path, busybox_base: Path):
    layout = Layout(tmp_path / "models")
    contents = {"config.json": b"{}", "a.safetensors": b"a" * 100_000, "empty": b""}
    registries = Registries(Client(), lambda _: None)
    for tag, base in (("org--bare", "scratch"), ("org--based", f"oci:{busybox_base}:latest")):
        carry(layout, tag, contents, repo_id=tag.replace("--", "/"), base=base)

    def planned(repo_id: str) -> ServePlan:
        found = find_image(repo_id, f"oci:{tmp_path}", NAMESPACE, registries, lambda _: None)
        return make_plan(replace(found.model, image="a.lab/b:c"), ServeRequest(), [], gpus=0)

    bare, based = planned("org/bare"), planned("org/based")
    for each in (bare, based):
        assert "reference: a.lab/b:c" in kubernetes_objects(each)
        assert "oci+native://a.lab/b:c" in kserve_objects(each, native=True)
    assert "initContainers" in kubernetes_objects(based, init_container=True)
    assert "oci://a.lab/b:c" in kserve_objects(based)
    with pytest.raises(UsageError, match=r"no base image .* the init container runs a shell"):
        kubernetes_objects(bare, init_container=True)
    with pytest.raises(UsageError, match=r"no base image .* KServe's oci:// runs a shell") as caught:
        kserve_objects(bare)
    assert "--native" in str(caught.value.hint)
    # The server downloads the model from a hub.
    assert kserve_objects(plan(hub=HUB, has_base=False))


def test_compose_joins_the_network():
    named, host = (yaml.safe_load(compose_file(plan(network=name))) for name in ("lab", "host"))
    assert named["networks"] == {"default": {"name": "lab", "external": True}}
    [server] = host["services"].values()
    assert (server["network_mode"], "networks" in host) == ("host", False)


@pytest.mark.parametrize("printed", [kubernetes_objects, kserve_objects])
def test_the_first_lines_name_the_secret_of_the_key(printed: Callable[[ServePlan], str]):
    for each in (plan(), plan(hub=HUB)):
        first = printed(each).partition("apiVersion:")[0]
        assert "kubectl create secret generic qwen-qwen3-8b-key --from-literal api-key=KEY\n" in first


@pytest.mark.parametrize(
    ("listen", "line"),
    [
        ("9000", "# To serve other machines, set that key, and use --port 0.0.0.0:9000 with"),
        ("0.0.0.0:9000", "# Other machines can use this server: set that key.\n"),
    ],
)
def test_compose_says_who_reaches_the_server(listen: str, line: str):
    printed = compose_file(plan(listen=listen))
    assert line in printed
    assert printed.count("other machines") + printed.count("Other machines") == 1


def test_an_image_that_nobody_can_pull_is_refused():
    model = ServedModel("org/m", "main", FILES["Qwen/Qwen3-8B"], has_base=False)
    made = make_plan(model, ServeRequest(), [], gpus=1)
    for print_it in (
        compose_file,
        partial(kserve_objects, native=False),
        partial(kubernetes_objects, init_container=True),
    ):
        with pytest.raises(UsageError, match="in a directory or archive"):
            print_it(made)


@pytest.mark.parametrize(
    ("name", "expected"), [("0org/A.b_c", "model-0org-a-b-c"), ("org/" + "x" * 90, "org-" + "x" * 46)]
)
def test_object_names_are_dns_labels(name: str, expected: str):
    model = ServedModel(name, "main", files("config.json", "a.safetensors"), image="a/b")
    assert make_plan(model, ServeRequest(), [], gpus=0).object_name == expected


def test_the_servers_are_those_of_the_recipes():
    recipes = load_recipes(images_folder())
    for name, server in SERVERS.items():
        recipe = recipes[name]
        assert recipe.ports == (server.port,)
        for variant in (*server.cpu_variants, *server.gpu_variants):
            assert recipe.variants[variant].tags == (variant,)
        options = ServerOptions("a/b", "main", plan().files if name == "vllm" else PLANS[-1].files, ("::1", 9))
        assert set(environment(options)) - {server.port_variable} <= {"VLLM_CPU_KVCACHE_SPACE"}
        assert server.port_variable in (recipe.folder / "Dockerfile.j2").read_text()


def test_a_file_in_parts_is_refused():
    name = "Qwen/Qwen3-8B-GGUF"
    for parts, served in ((FILES[name][1].path, False), (FILES[name][2].path, True)):
        model = ServedModel(name, "main", FILES[name], in_parts=frozenset({parts}), image="a/b")
        if served:
            assert make_plan(model, ServeRequest(), [], gpus=0).files.weights == FILES[name][1].path
            continue
        with pytest.raises(UsageError, match="in the image in parts"):
            make_plan(model, ServeRequest(), [], gpus=0)


def test_an_image_without_a_file_index_needs_to_be_told_what_to_serve():
    model = ServedModel("registry.local/x:y", image="registry.local/x:y")
    with pytest.raises(UsageError, match="has no file index"):
        make_plan(model, ServeRequest(), [], gpus=0)
    assert make_plan(model, ServeRequest("vllm"), [], gpus=0).arguments[0] == "/model"
    asked = make_plan(model, ServeRequest("llama.cpp", "m.gguf"), [], gpus=0)
    assert asked.arguments[:2] == ["--model", "/model/m.gguf"]
