"""The registries, the engine and the base image of the tests, checked with skopeo and docker."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.base import write_busybox_layout
from tests.support.engine import Engine
from tests.support.process import need
from tests.support.registry import Registry


def skopeo(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [need("skopeo", "skopeo"), "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def credentials(registry: Registry, side: str) -> list[str]:
    options = [f"--{side}-creds={registry.user}:{registry.password}"] if registry.user else []
    if registry.ca_file is None:
        return [*options, f"--{side}-tls-verify=false"]
    return [*options, f"--{side}-cert-dir={registry.ca_file.parent}"]


def blobs(layout: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (layout / "blobs/sha256").iterdir()}


@pytest.mark.parametrize("kind", ["registry", "secure_registry", "token_registry"])
def test_the_base_image_is_unchanged_after_push_and_pull(
    kind: str, request: pytest.FixtureRequest, busybox_base: Path, tmp_path: Path
):
    registry: Registry = request.getfixturevalue(kind)
    image = f"docker://{registry.namespace()}/busybox:latest"
    skopeo("copy", "--all", "--preserve-digests", *credentials(registry, "dest"), f"oci:{busybox_base}:latest", image)
    back = tmp_path / "back"
    skopeo("copy", "--all", "--preserve-digests", *credentials(registry, "src"), image, f"oci:{back}:latest")
    assert blobs(back) == blobs(busybox_base)
    assert all(name == digest for name, digest in blobs(back).items())


def push_base(registry: Registry, layout: Path) -> str:
    image = f"{registry.namespace()}/busybox:latest"
    copy = ["copy", "--all", "--preserve-digests", *credentials(registry, "dest")]
    skopeo(*copy, f"oci:{layout}:latest", f"docker://{image}")
    return image


@pytest.mark.parametrize("kind", ["secure_registry", "token_registry"])
def test_a_registry_rejects_a_wrong_password(kind: str, request: pytest.FixtureRequest, busybox_base: Path):
    registry: Registry = request.getfixturevalue(kind)
    image = push_base(registry, busybox_base)
    trust = credentials(registry, "src")[-1].replace("--src-", "--")
    assert skopeo("inspect", "--raw", trust, f"docker://{image}", check=False).returncode != 0
    wrong = f"--creds={registry.user}:wrong"
    assert skopeo("inspect", "--raw", trust, wrong, f"docker://{image}", check=False).returncode != 0
    right = f"--creds={registry.user}:{registry.password}"
    index = (busybox_base / "blobs/sha256" / index_digest(busybox_base)).read_text()
    assert skopeo("inspect", "--raw", trust, right, f"docker://{image}").stdout == index


def index_digest(layout: Path) -> str:
    return str(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]).removeprefix("sha256:")


def test_skopeo_reads_the_credentials_of_docker_login(secure_registry: Registry, busybox_base: Path, tmp_path: Path):
    image = push_base(secure_registry, busybox_base)
    folder = secure_registry.docker_config(tmp_path / "docker")
    login = json.loads((folder / "config.json").read_text())["auths"][secure_registry.host]["auth"]
    assert base64.b64decode(login).decode() == f"{secure_registry.user}:{secure_registry.password}"
    trust = credentials(secure_registry, "src")[-1].replace("--src-", "--")
    skopeo("inspect", "--raw", trust, f"--authfile={folder}/config.json", f"docker://{image}")


def test_the_token_server_records_the_requested_scopes(token_registry: Registry, busybox_base: Path):
    assert token_registry.tokens is not None
    token_registry.tokens.scopes.clear()
    image = push_base(token_registry, busybox_base)
    name = image.removeprefix(f"{token_registry.host}/").removesuffix(":latest")
    actions = {scope.rpartition(":")[2] for scopes in token_registry.tokens.scopes for scope in scopes if name in scope}
    assert {"push", "pull"} <= {action for group in actions for action in group.split(",")}


def test_the_registry_lists_its_requests(registry: Registry):
    registry.served()
    repository = f"/v2/{registry.namespace().partition('/')[2]}/models"
    asked = [
        ("GET", "/v2/", 200),
        ("GET", f"{repository}/manifests/absent", 404),
        ("POST", f"{repository}/blobs/uploads/?mount=x", 202),
    ]
    for method, target, status in asked:
        command = [need("curl", "curl"), "--silent", "--write-out", "%{http_code}", "--output", "/dev/null"]
        done = subprocess.run(
            [*command, "--request", method, registry.url + target], capture_output=True, text=True, check=True
        )
        assert done.stdout == str(status)
    assert [(request.method, request.target, request.status) for request in registry.served()] == asked
    assert registry.served() == []


def test_blob_file_returns_the_stored_blob(registry: Registry, busybox_base: Path):
    push_base(registry, busybox_base)
    for path in (busybox_base / "blobs/sha256").iterdir():
        if path.name != index_digest(busybox_base):
            assert registry.blob_file(f"sha256:{path.name}").read_bytes() == path.read_bytes()


def test_the_base_image_is_the_same_on_every_run(busybox_base: Path, tmp_path: Path):
    again = write_busybox_layout(tmp_path / "again")
    assert blobs(again) == blobs(busybox_base)
    assert (again / "index.json").read_bytes() == (busybox_base / "index.json").read_bytes()


def test_docker_pulls_and_runs_the_base_image(engine: Engine, registry: Registry, busybox_base: Path):
    image = push_base(registry, busybox_base)
    engine.docker("pull", image)
    try:
        printed = engine.docker("run", "--rm", "--network=none", image, "cat", "/etc/platform").stdout
        architecture = engine.docker("image", "inspect", "--format", "{{.Architecture}}", image).stdout.strip()
        assert printed == {"amd64": "linux/amd64\n", "arm64": "linux/arm64/v8\n"}[architecture]
        assert os.environ["DOCKER_HOST"] == engine.host
    finally:
        engine.docker("rmi", image)
