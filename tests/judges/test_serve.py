"""`llmstack serve` with current Docker, which mounts the image, and what it prints with Docker Compose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.judges.conftest import Judge
from tests.model_serving.support import FILES, content, sha256
from tests.support.carried import carry
from tests.support.cli import Run, run_llmstack
from tests.support.process import free_port
from tests.support.registry import Registry
from tests.support.serving import repository

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]
SCRIPTS = Path(__file__).parents[1] / "model_serving"
SERVER = "llmstack-test-server"


@dataclass(frozen=True, slots=True)
class Served:
    """A carried model, and a current Docker that has the image of a server."""

    docker: Judge
    namespace: str

    def serve(self, *arguments: str) -> Run:
        common = ("--network", "host", "--server-image", SERVER, "--gpus", "0")
        return run_llmstack("serve", *arguments, *common, env=self.docker.environment)


@pytest.fixture
def served(docker: Judge, registry: Registry, busybox_base: Path, shared: Path) -> Iterator[Served]:
    namespace = registry.namespace()
    image = f"{namespace}/models:org--gguf"
    base = f"oci:{busybox_base}:latest"
    carry(repository(namespace), "org--gguf", FILES["org/gguf"], repo_id="org/gguf", base=base)
    # Its base has a shell, so the image can run the server, too.
    (shared / "Dockerfile").write_text(
        f'FROM {image}\nCOPY server.sh answer.sh /\nUSER 2000:0\nENTRYPOINT ["/server.sh", "llama.cpp"]\n'
    )
    for script in ("server.sh", "answer.sh"):
        shutil.copy(SCRIPTS / script, shared)
    docker.run("docker", "build", "--quiet", "--tag", SERVER, shared)
    yield Served(docker, namespace)
    docker.run("sh", "-c", "docker rm --force $(docker ps --all --quiet)", check=False)


def test_the_image_is_mounted_and_nothing_is_copied(served: Served):
    port = str(free_port())
    done = served.serve("org/gguf", "--from", served.namespace, "--detach", "--port", port)
    assert done.code == 0, done.stderr
    assert content(f"http://127.0.0.1:{port}") == sha256("org/gguf", "a-Q4_K_M.gguf")
    name = f"llmstack-org--gguf-{port}"
    mounts = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}{{end}}"
    assert served.docker.run("docker", "inspect", "--format", mounts, name) == "image /model false\n"
    assert served.docker.run("docker", "exec", name, "ls", "/model").split() == sorted(FILES["org/gguf"])
    assert served.docker.run("docker", "volume", "ls", "--quiet") == ""
    assert served.serve("--stop", "org/gguf").code == 0
    assert served.docker.run("docker", "ps", "--all", "--quiet") == ""


def test_docker_compose_runs_what_is_printed(served: Served, shared: Path):
    port = str(free_port())
    printed = served.serve("org/gguf", "--from", served.namespace, "--print", "compose", "--port", port)
    assert printed.code == 0, printed.stderr
    (shared / "compose.yaml").write_text(printed.stdout)
    compose = ("docker", "compose", "--file", shared / "compose.yaml")
    served.docker.run(*compose, "up", "--detach")
    try:
        wait = f"until wget -q -O - http://127.0.0.1:{port}/health; do sleep 0.1; done"
        served.docker.run(*compose, "exec", "org-gguf", "timeout", "60", "sh", "-c", wait)
        assert content(f"http://127.0.0.1:{port}") == sha256("org/gguf", "a-Q4_K_M.gguf")
    finally:
        served.docker.run(*compose, "down")
