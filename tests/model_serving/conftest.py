"""Carried models, and images of servers with the interfaces of the recipes llama.cpp and vllm."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_serving.support import FILES, Bench
from tests.support.carried import carry
from tests.support.engine import Engine
from tests.support.recipes import BUSYBOX
from tests.support.registry import Registry
from tests.support.serving import repository

HERE = Path(__file__).parent
DOCKERFILE = f"""\
FROM {BUSYBOX}
COPY server.sh answer.sh /
USER 2000:0
ENTRYPOINT ["/server.sh", "%s"]
"""


@pytest.fixture(scope="session")
def server_images(
    shared_engine: Engine, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The names of the servers' images in the engine."""
    assert busybox == BUSYBOX
    images = {name: f"llmstack-test-{name}-{uuid.uuid4().hex[:8]}" for name in ("llama.cpp", "vllm")}
    for name, image in images.items():
        context = tmp_path_factory.mktemp("server")
        for script in ("server.sh", "answer.sh"):
            shutil.copy(HERE / script, context)
        (context / "Dockerfile").write_text(DOCKERFILE % name)
        shared_engine.docker("build", "--quiet", "--tag", image, str(context))
    yield images
    for image in images.values():
        shared_engine.docker("image", "rm", "--force", image)


@pytest.fixture(scope="session")
def network(shared_engine: Engine) -> Iterator[str]:
    """A network in which ports are published; the engine of the tests has no default one."""
    name = f"llmstack-test-{uuid.uuid4().hex[:12]}"
    shared_engine.docker("network", "create", name)
    yield name
    shared_engine.docker("network", "rm", name)


@pytest.fixture
def bench(
    engine: Engine,
    registry: Registry,
    busybox_base: Path,
    server_images: dict[str, str],
    network: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """A namespace with carried models, and the images of the servers as `llmstack build` names them."""
    namespace = registry.namespace()
    monkeypatch.setenv("LLMSTACK_NAMESPACE", namespace)
    for repo_id, files in FILES.items():
        tag = repo_id.replace("/", "--")
        carry(repository(namespace), tag, files, repo_id=repo_id, base=f"oci:{busybox_base}:latest")
    for name, image in server_images.items():
        engine.docker("tag", image, f"{namespace}/{name}:cpu")
    bench = Bench(engine, namespace, network)
    yield bench
    bench.clean()
