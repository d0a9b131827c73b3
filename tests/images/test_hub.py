"""The hub image with the settings of example/hub/compose.yaml, any uid, and a registry with TLS and authentication."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from tests.support.cli import run_llmstack
from tests.support.hub import Hub
from tests.support.registry import secure_registry
from tests.support.serving import run_client
from tests.support.standin import running

pytestmark = pytest.mark.timeout(900)
IMAGE = "llmstack-test-hub:latest"
COMPOSE = Path(__file__).parents[2] / "example" / "hub" / "compose.yaml"
FILES = {"config.json": b'{"a": 1}', "sub/w.safetensors": bytes(range(256)) * 4096}
DOWNLOAD = "from huggingface_hub import snapshot_download; print(snapshot_download('org/tiny'))"
# The options of `docker run` for the service's settings. The test sets variables and the network itself.
RUN = {
    "image": lambda _: (),
    "environment": lambda _: (),
    "ports": lambda _: (),
    "restart": lambda _: (),
    "read_only": lambda value: ("--read-only",) if value else (),
    "cap_drop": lambda values: tuple(f"--cap-drop={value}" for value in values),
    "security_opt": lambda values: tuple(f"--security-opt={value}" for value in values),
    "stop_grace_period": lambda value: (f"--stop-timeout={value.removesuffix('s')}",),
    "mem_limit": lambda value: (f"--memory={value}",),
}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


EXPECTED = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


@pytest.fixture(scope="module")
def image(debian, build_environment):
    """The name of the image."""
    done = run_llmstack("build", "hub", "--base", debian, "--tag", IMAGE, env=build_environment, timeout=800)
    assert (done.code, done.stdout) == (0, f"{IMAGE}\n"), done.stderr[-4000:]
    return IMAGE


@pytest.fixture(scope="module")
def options(shared_engine, network, tmp_path_factory):
    """Container options to read a carried repo from the registry."""
    find = ("network", "inspect", network, "--format", "{{(index .IPAM.Config 0).Gateway}}")
    address = shared_engine.docker(*find).stdout.strip()
    folder = tmp_path_factory.mktemp("far-side")
    with secure_registry(folder / "registry", address) as registry, Hub() as hub:
        hub.add_repo("org/tiny", FILES)
        login = registry.docker_config(folder / "login")
        carried = run_llmstack(
            *("ferry", "org/tiny", "--to", f"{registry.host}/llm", "--base", "scratch"),
            env={"HF_ENDPOINT": hub.url, "SSL_CERT_FILE": str(registry.ca_file), "DOCKER_CONFIG": str(login)},
        )
        assert carried.code == 0, carried.stderr
        service = yaml.safe_load(COMPOSE.read_text())["services"]["hub"]
        yield (
            *(flag for key, value in service.items() for flag in RUN[key](value)),
            "--user=12345:54321",
            f"--env=LLMSTACK_NAMESPACE={registry.host}/llm",
            f"--volume={login}:/run/login:ro",
            "--env=DOCKER_CONFIG=/run/login",
            f"--volume={registry.ca_file}:/run/ca.crt:ro",
            "--env=SSL_CERT_FILE=/run/ca.crt",
        )


def test_client_downloads_a_repo_and_the_container_stops(shared_engine, network, image, options, tmp_path):
    with running(shared_engine, network, image, options=(*options, "--health-interval=1s")) as container:
        container.wait_healthy()
        assert container.exec("id", "-u").stdout == "12345\n"
        for tool in ("cc", "pip"):
            assert container.exec("sh", "-c", f"command -v {tool}", check=False).returncode == 127
        snapshot = Path(run_client(None, f"http://{container.ip}:8080", tmp_path, "-c", DOWNLOAD).strip())
        assert digests(snapshot) == EXPECTED
        shared_engine.docker("stop", container.name)
        assert container.state["ExitCode"] == 0, container.logs
        assert "GET /org/tiny/resolve/" in container.logs


def test_image_contains_the_other_commands(shared_engine, network, image, options, tmp_path):
    tmp_path.chmod(0o777)
    command = ("llmstack", "extract", "org/tiny", "./files")
    mounted = (*options, f"--volume={tmp_path}:/workspace")
    with running(shared_engine, network, image, *command, options=mounted) as container:
        assert container.wait_ended() == 0, container.logs
    assert digests(tmp_path / "files") == EXPECTED
    listed = shared_engine.docker("run", "--rm", "--network", "none", image, "llmstack", "images").stdout
    assert "hub: A read-only Hugging Face Hub" in listed
