"""Images that are built once, on a Debian stand-in and with this machine's pip configuration."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmstack.image_builds.wheel_index import make_index, read_wheel
from tests.support.cli import run_llmstack
from tests.support.engine import Engine
from tests.support.recipes import BUSYBOX, load_layout
from tests.support.standin import closed_network, import_debian

BUILD_TIMEOUT = 1500


def ask(url: str, body: Mapping[str, object], key: str) -> tuple[int, Any]:
    """Post to a container and return the status and the JSON body."""
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


@pytest.fixture(scope="session")
def busybox(shared_engine: Engine, busybox_base: Path) -> str:
    """The name of a busybox image in the engine."""
    load_layout(shared_engine, busybox_base, BUSYBOX)
    return BUSYBOX


@pytest.fixture(scope="session")
def debian(shared_engine: Engine) -> str:
    """The name of a Debian image in the engine."""
    return import_debian(shared_engine)


@pytest.fixture(scope="session")
def network(shared_engine: Engine) -> Iterator[str]:
    """The name of an isolated network."""
    with closed_network(shared_engine) as name:
        yield name


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="session")
def torch_links(started_with: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The URL of PyTorch's CPU build: a local server for pip's find-links directory; None: the recipe's URL."""
    wheels = [path for folder in _find_links(started_with) for path in Path(folder).glob("torch-*+cpu-*.whl")]
    if not wheels:
        yield None
        return
    root = tmp_path_factory.mktemp("torch")
    for name, content in make_index(read_wheel(path) for path in wheels).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (root / name).symlink_to(content)
        else:
            (root / name).write_bytes(content)
    handler = functools.partial(_Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple/torch/"
        server.shutdown()


def _find_links(environment: Mapping[str, str]) -> list[str]:
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=True).stdout
    values = [line.partition("=")[2].strip("'\"") for line in listed.splitlines() if ".find-links=" in line]
    return [word for value in values for word in value.split()]


@pytest.fixture(scope="session")
def build_environment(
    shared_engine: Engine, started_with: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The variables for builds in tests: the steps use this machine's network and certificates."""
    environment = {"DOCKER_HOST": shared_engine.host, "LLMSTACK_BUILD_NETWORK": "host"}
    if bundle := started_with.get("SSL_CERT_FILE"):
        copy = tmp_path_factory.mktemp("ca") / "ca.crt"
        shutil.copyfile(bundle, copy)
        environment["LLMSTACK_CA_CERT"] = str(copy)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if value := started_with.get(name) or started_with.get(name.upper()):
            environment[f"LLMSTACK_{name.upper()}"] = value
    return environment


@pytest.fixture(scope="session")
def hf_dev(build_environment: dict[str, str], debian: str, torch_links: str | None) -> str:
    """The name of the hf-dev image for CPUs, built with its parent."""
    links = ["--build-arg", f"torch_links={torch_links}"] if torch_links else []
    arguments = ["build", "hf-dev", "--variant", "cpu", "--base", debian, *links]
    done = run_llmstack(*arguments, env=build_environment, timeout=BUILD_TIMEOUT)
    assert done.code == 0, done.stderr[-4000:]
    assert done.stdout == "hf-dev:cpu\n"
    return "hf-dev:cpu"


@pytest.fixture(scope="session")
def llm_factory(build_environment: dict[str, str], debian: str, torch_links: str | None) -> str:
    """The name of the llm-factory image for CPUs."""
    links = ["--build-arg", f"torch_links={torch_links}"] if torch_links else []
    arguments = ["build", "llm-factory", "--variant", "cpu", "--base", debian, *links]
    done = run_llmstack(*arguments, env=build_environment, timeout=BUILD_TIMEOUT)
    assert done.code == 0, done.stderr[-4000:]
    return "llm-factory:cpu"
