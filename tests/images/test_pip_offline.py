"""pip-offline: wheels downloaded here, served in an isolated network, and installed by pip and uv."""

from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request

import pytest

from tests.support.cli import run_llmstack
from tests.support.pythons import make_environment
from tests.support.standin import running

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("images")]
IMAGE = "llmstack-test-pip-offline:latest"
PYTHONS = ("3.10", "3.11", "3.12")
CLIENT = "llmstack-test-pip-client:latest"


@pytest.fixture(scope="module")
def index(shared_engine, network, build_environment, busybox, tmp_path_factory):
    """A container that serves uv, and jinja2 with its dependencies for two Python versions."""
    requirements = tmp_path_factory.mktemp("requirements") / "requirements.txt"
    requirements.write_text("jinja2==3.1.6\nuv\n")
    targets = [word for python in PYTHONS for word in ("--python", python)] + [
        "--platform-tag",
        "manylinux_2_28_x86_64",
    ]
    done = run_llmstack(
        *("build", "pip-offline", "--base", busybox, "--tag", IMAGE, "--requirements", requirements, *targets),
        env=build_environment,
    )
    assert done.code == 0, done.stderr
    assert done.stdout == f"{IMAGE}\n"
    with running(shared_engine, network, IMAGE) as container:
        container.wait_healthy()
        yield container


@pytest.fixture(scope="module")
def client(shared_engine, debian):
    """The name of an image with Python and pip."""
    install = "apt-get update -qq && apt-get install -qq -y --no-install-recommends ca-certificates python3-venv"
    dockerfile = f"FROM {debian}\nRUN {install} && python3 -m venv /venv\n"
    command = ["docker", "--host", shared_engine.host, "build", "--quiet", "--network", "host", "--tag", CLIENT, "-"]
    subprocess.run(command, input=dockerfile, text=True, check=True, capture_output=True)
    return CLIENT


def get(container, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{container.ip}:8080{path}", timeout=10) as response:
        return response.headers["Content-Type"], response.read()


def test_pip_and_uv_install_dependencies_from_this_index_only(index, client):
    url = "http://127.0.0.1:8080/simple"
    pip = f"/venv/bin/pip install -q --index-url {url}/"
    uv = f"/venv/bin/uv pip install -q --default-index {url} --python /uv/bin/python"
    script = (
        "set -e; ! /venv/bin/pip download -q --no-deps --retries 0 --timeout 2 uv 2>/dev/null;"
        f'{pip} uv jinja2; /venv/bin/python -c \'import markupsafe; print("pip", markupsafe.escape("<"))\';'
        f"/venv/bin/uv venv -q /uv; {uv} Jinja2; /uv/bin/python -c 'import jinja2; print(\"uv\", jinja2.__version__)'"
    )
    # In the index's network namespace: some hosts filter traffic between containers of a bridge.
    with running(index.engine, f"container:{index.name}", client, "sh", "-c", script) as container:
        assert container.wait_ended() == 0, container.logs
        assert container.logs == "pip &lt;\nuv 3.1.6\n"


@pytest.mark.parametrize("python", ["3.10", "3.12"])
def test_other_python_installs_its_wheels(index, client, python, started_with, tmp_path):
    """The index was made with another Python."""
    venv = make_environment(tmp_path / "venv", python, started_with)
    prefix = (venv / "bin" / "python").resolve().parent.parent
    script = (
        f"set -e; {prefix}/bin/python{python} -m venv /other;"
        "/other/bin/pip install -q --index-url http://127.0.0.1:8080/simple/ jinja2;"
        "/other/bin/python -c 'import markupsafe._speedups, sys; print(sys.version_info[:2])'"
    )
    options = ("--volume", f"{prefix}:{prefix}:ro")
    network = f"container:{index.name}"
    with running(index.engine, network, client, "sh", "-c", script, options=options) as container:
        assert container.wait_ended() == 0, container.logs
        assert container.logs == f"(3, {python.partition('.')[2]})\n"


@pytest.mark.images
def test_recipe_builds_from_the_index_of_its_lock_alone(shared_engine, network, build_environment, busybox, client):
    """The steps have only the network of the index. The base has Debian's packages already."""
    tag = "llmstack-test-pip-offline:hub"
    arguments = ("build", "pip-offline", "--base", busybox, "--tag", tag, "--for", "hub:cpu")
    done = run_llmstack(*arguments, env=build_environment, timeout=600)
    assert done.code == 0, done.stderr
    with running(shared_engine, network, tag) as container:
        container.wait_healthy()
        settings = {
            "DOCKER_HOST": shared_engine.host,
            "LLMSTACK_BUILD_NETWORK": f"container:{container.name}",
            "LLMSTACK_PIP_INDEX": "http://127.0.0.1:8080/simple/",
        }
        image = "llmstack-test-hub-behind-the-gap:latest"
        arguments = ("build", "hub", "--base", client, "--tag", image, "--builder", "classic")
        done = run_llmstack(*arguments, env=settings, timeout=600)
        assert done.code == 0, done.stderr
    run = ("run", "--rm", "--network", "none", "--entrypoint", "llmstack", image, "--version")
    assert shared_engine.docker(*run).stdout.startswith("llmstack ")


def test_container_stops_immediately(index):
    """As PID 1, busybox ignores SIGTERM."""
    assert index.engine.docker("image", "inspect", "--format", "{{.Config.StopSignal}}", IMAGE).stdout == "SIGKILL\n"


def test_pages_have_the_fields_that_clients_read(index):
    media_type, page = get(index, "/simple/markupsafe/")
    assert media_type.startswith("text/html")
    assert all(f"cp{python.replace('.', '')}-cp{python.replace('.', '')}" in page.decode() for python in PYTHONS)
    media_type, listed = get(index, "/simple/jinja2/index.v1_json")
    assert media_type == "application/vnd.pypi.simple.v1+json"
    [file] = json.loads(listed)["files"]
    assert file["requires-python"] == ">=3.7"
    _, wheel = get(index, f"/simple/jinja2/{file['url']}")
    assert hashlib.sha256(wheel).hexdigest() == file["hashes"]["sha256"]
    _, metadata = get(index, f"/simple/jinja2/{file['url']}.metadata")
    assert b"Name: Jinja2" in metadata
    assert hashlib.sha256(metadata).hexdigest() == file["core-metadata"]["sha256"]


def test_server_runs_as_nobody(index):
    assert index.exec("id", "-u").stdout == "65534\n"
    assert index.exec("touch", "/srv/index/x", check=False).returncode != 0


def test_package_without_a_wheel_for_the_target_is_an_error_with_pips_output(build_environment, busybox, tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("jinja2==3.1.6\n")
    done = run_llmstack(
        *("build", "pip-offline", "--base", busybox, "--requirements", requirements, "--python", "3.5"),
        env=build_environment,
    )
    assert done.code == 1
    assert "downloading wheels for Python 3.5 failed: pip exit code 1" in done.stderr
    assert "No matching distribution found" in done.stderr
    assert "Traceback" not in done.stderr
