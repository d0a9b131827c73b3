"""Fixtures shared by all tests. Servers start when a test needs them; a server that cannot start fails the test.

`make test` runs the tests in several processes (pytest-xdist), each with its own session fixtures. A test must not
depend on other tests, on a fixed port, or on a folder that another process writes. Tests that share an expensive
fixture stay in one process with `pytest.mark.xdist_group`; so do all tests that use the Docker Engine. The engine may
be the machine's only one, with tests/images running at the same time: select images and containers by name or label,
and never list all of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

from llmstack.image_builds.recipe import images_folder
from tests.support import process
from tests.support import registry as registries
from tests.support.base import write_busybox_layout
from tests.support.disk import small_disk
from tests.support.engine import Engine, docker_engine
from tests.support.ferry import Port
from tests.support.hub import Hub
from tests.support.recipes import BUSYBOX, load_layout
from tests.support.registry import Registry

STARTED_WITH = pytest.StashKey[dict[str, str]]()
# Variables of the developer's machine that tests must not see.
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_", "LLMSTACK_", "DOCKER_", "XDG_", "REGISTRY_", "GITHUB_")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
BUNDLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Nothing listens there: a test that does not set its hub fails, instead of using the internet.
NOWHERE = "http://127.0.0.1:1"
# The markers of tests that use these fixtures; `make test-unit` leaves all of them out.
MARKERS = {
    "shared_engine": "engine",
    "registry": "registry",
    "secure_registry": "registry",
    "token_registry": "registry",
    "polled_registry": "registry",
    "runners_engine": "engine",
    "browser": "browser",
    "clients": "system",
    "busybox_base": "system",
    "tiny_disk": "system",
}

# The duration of an example depends on the machine.
hypothesis.settings.register_profile("llmstack", deadline=None)
hypothesis.settings.load_profile("llmstack")


def pytest_configure(config: pytest.Config) -> None:
    """Isolate the environment before test modules are imported: huggingface_hub reads it at import."""
    if config.getoption("numprocesses", None):
        # This process runs no tests. The workers inherit its environment, and need the original one.
        return
    config.stash[STARTED_WITH] = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix="llmstack-home-"))
    patch = pytest.MonkeyPatch()
    isolate(patch, home)
    config.add_cleanup(patch.undo)
    config.add_cleanup(lambda: shutil.rmtree(home))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use, and keep tests with the Docker Engine in one process."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        # A parameter can be the name of a fixture.
        parameters = (
            item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
        )
        names = {*fixtures, *(value for value in parameters if isinstance(value, str))}
        for name in {MARKERS[fixture] for fixture in names if fixture in MARKERS}:
            item.add_marker(name)
        if "shared_engine" in fixtures and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("engine"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Allow installed programs only in tests with a marker, so that no marker is missing."""
    process.programs_allowed = any(item.get_closest_marker(name) for name in (*MARKERS.values(), "images", "judges"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Let fixtures of a wider scope end, whichever test is the last."""
    process.programs_allowed = True


def isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Remove all configuration from the environment, and set `home` as the home folder."""
    for name in list(os.environ):
        if name.startswith(FOREIGN) or name.lower() in PROXIES or name in BUNDLES:
            patch.delenv(name)
    patch.setenv("HOME", str(home))
    patch.setenv("HF_ENDPOINT", NOWHERE)
    patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    patch.setenv("HF_HUB_DISABLE_UPDATE_CHECK", "1")


@pytest.fixture(scope="session")
def started_with(pytestconfig: pytest.Config) -> Mapping[str, str]:
    """The environment that pytest was started with."""
    return pytestconfig.stash[STARTED_WITH]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new home folder for every test, and no configuration."""
    folder = tmp_path_factory.mktemp("home")
    isolate(monkeypatch, folder)
    return folder


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:  # noqa: ARG001 - after the isolation
    """An empty hub; HF_ENDPOINT is its URL."""
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry over HTTP without authentication."""
    with registries.plain_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def secure_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry over HTTPS with a private CA (`ca_file`); requires `user` and `password`."""
    with registries.secure_registry(tmp_path_factory.mktemp("secure-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def token_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry over HTTP with Bearer tokens, which a token server (`tokens`) issues for `user` and `password`."""
    with registries.token_registry(tmp_path_factory.mktemp("token-registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def shared_engine(started_with: Mapping[str, str]) -> Iterator[Engine]:
    """A running Docker Engine, for fixtures with a wider scope."""
    # The path of a socket is limited to 107 bytes, and pytest's folders are deep.
    with (
        tempfile.TemporaryDirectory(prefix="llmstack-engine-") as folder,
        docker_engine(Path(folder) / "engine", started_with) as engine,
    ):
        yield engine


@pytest.fixture
def engine(shared_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A running Docker Engine; DOCKER_HOST is its address."""
    monkeypatch.setenv("DOCKER_HOST", shared_engine.host)
    return shared_engine


@pytest.fixture(scope="session")
def busybox_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox base image for linux/amd64 and linux/arm64/v8: an OCI layout with the tag `latest`."""
    return write_busybox_layout(tmp_path_factory.mktemp("base") / "busybox")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate file system of 1 MiB."""
    with small_disk(tmp_path / "tiny", 1024 * 1024) as folder:
        yield folder


@pytest.fixture(scope="session")
def busybox(shared_engine: Engine, busybox_base: Path) -> str:
    """The name of a busybox image in the engine."""
    load_layout(shared_engine, busybox_base, BUSYBOX)
    return BUSYBOX


@pytest.fixture
def recipes(engine: Engine, tmp_path: Path) -> Path:  # noqa: ARG001 - the recipes are built there
    """A recipe folder with the shared files only, and a Docker Engine that builds from it."""
    folder = tmp_path / "images"
    shutil.copytree(images_folder() / "_shared", folder / "_shared")
    return folder


@pytest.fixture
def port(hub: Hub, registry: Registry, busybox_base: Path, tmp_path: Path) -> Port:
    """A hub, a registry and a base image for ferry, and an empty work directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    registry.served()
    return Port(hub, registry, registry.namespace(), f"oci:{busybox_base}:latest", folder)
