"""Several worker processes serve as one hub: they share what they know and count, and each of them is replaced."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.hub_server.test_load import MEGABYTE
from tests.hub_server.test_refresher import wait_for_refresh
from tests.support.carried import COMMIT, carry
from tests.support.process import processes_below
from tests.support.registry import Registry
from tests.support.serving import Serving, repository, serving

PATH = "/org/model/resolve/main/a"
TOKEN = "hf_s3cret"
BIG = os.urandom(32 * MEGABYTE)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A layout with one repo."""
    layout = Layout(tmp_path / "carried/models")
    carry(layout, "org--model", {"a": b"a", "big.bin": BIG})
    return layout


@pytest.fixture
def hub(layout: Layout, tmp_path: Path) -> Iterator[Serving]:
    """A hub with three workers that does not refresh while a test runs."""
    with serving(tmp_path, f"oci:{layout.folder.parent}", workers=3, env={"LLMSTACK_HUB_REFRESH": "3600"}) as hub:
        yield hub


@contextlib.contextmanager
def connections(hub: Serving, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Open connections that stay open: the workers have equal numbers of them."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=60)
            opened.append(stack.enter_context(contextlib.closing(connection)))
            assert ask(connection, "/healthz") == b"ok\n"
        yield opened


def ask(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    with connection.getresponse() as response:
        assert response.status == 200
        return response.read()


def sockets(pid: int) -> int:
    """Return the number of sockets that a process has open."""
    return sum(str(path.readlink()).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir())


def accepts(hub: Serving) -> bool:
    """Tell whether the hub accepts connections."""
    with contextlib.suppress(ConnectionResetError, http.client.RemoteDisconnected):
        try:
            hub.get("/healthz")
        except ConnectionRefusedError:
            return False
    return True


def requests(hub: Serving) -> int:
    """Return how many GET requests got 200, the one that asks included."""
    counted = re.search(r'requests_total\{method="GET",status="200"\} (\d+)', hub.get("/metrics").body.decode())
    return int(counted[1]) + 1 if counted else 1


def test_the_connections_are_spread_over_the_workers(hub: Serving):
    workers = processes_below(hub.daemon.pid)[1:]
    assert len(workers) == 3
    idle = min(map(sockets, workers))
    with connections(hub, 30):
        # A busy machine may wake one of them late.
        assert all(sockets(worker) - idle >= 3 for worker in workers)


def test_any_worker_counts_the_requests_of_all(hub: Serving):
    with connections(hub, 12) as opened:
        for connection in opened:
            assert ask(connection, PATH) == b"a"
        # A worker counts a request after its answer has been sent.
        asked = 24
        while requests(hub) != (asked := asked + 1):
            assert hub.daemon.alive
            time.sleep(0.02)
        assert hub.metric("workers") == 3
        assert hub.metric("open_requests") == 1


def test_what_one_worker_looks_up_is_known_to_all(hub: Serving, layout: Layout):
    with connections(hub, 9) as opened:
        carry(layout, "org--new", {"a": b"new"}, repo_id="org/new")
        assert ask(opened[0], "/org/new/resolve/main/a") == b"new"
        while not all(b"org/new" in ask(connection, "/api/models") for connection in opened):
            assert hub.daemon.alive
        carry(layout, "org--model", {"a": b"moved"}, commit="c" * 40)
        assert ask(opened[1], f"/org/model/resolve/{'c' * 40}/a") == b"moved"
        while not all(ask(connection, PATH) == b"moved" for connection in opened):
            assert hub.daemon.alive
        # Downloads that began before can finish, with any worker.
        assert all(ask(connection, f"/org/model/resolve/{COMMIT}/a") == b"a" for connection in opened)


def test_each_process_is_replaced(hub: Serving, layout: Layout):
    counted = requests(hub)
    for number, pid in enumerate(processes_below(hub.daemon.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        while hub.output.count("has ended (SIGKILL); starting another one") <= number:
            assert hub.daemon.alive
        # The others answer, and those that replace it know the repos when they begin.
        for _ in range(10):
            assert hub.get(PATH).body == b"a"
    while len(processes_below(hub.daemon.pid)) < 4:
        assert hub.daemon.alive
    assert requests(hub) >= counted + 40
    carry(layout, "org--new", {"a": b"new"}, repo_id="org/new")
    assert hub.get("/org/new/resolve/main/a").body == b"new"
    with connections(hub, 9) as opened:
        while not all(b"org/new" in ask(connection, "/api/models") for connection in opened):
            assert hub.daemon.alive
    assert "Traceback" not in hub.output


def test_sigterm_lets_all_workers_finish(hub: Serving):
    with contextlib.ExitStack() as stack:
        responses = [stack.enter_context(hub.open("/org/model/resolve/main/big.bin")) for _ in range(6)]
        begun = [response.read(MEGABYTE) for response in responses]
        os.kill(hub.daemon.pid, signal.SIGTERM)
        while accepts(hub):
            assert hub.daemon.alive
        assert all(start + response.read() == BIG for start, response in zip(begun, responses, strict=True))
    assert hub.daemon.wait(30) == 0
    assert hub.output.rstrip().endswith("stopped")
    assert "has ended" not in hub.output


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_hub(hub: Serving, number: signal.Signals):
    pids = processes_below(hub.daemon.pid)
    os.killpg(hub.daemon.pid, number) if number == signal.SIGINT else os.kill(hub.daemon.pid, number)
    hub.daemon.wait(30)
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        pass


def test_the_registry_is_asked_by_one_process(registry: Registry, tmp_path: Path):
    namespace = registry.namespace()
    carry(repository(namespace), "org--model", {"a": b"a"})
    with serving(tmp_path, namespace, workers=3, env={"LLMSTACK_HUB_REFRESH": "1"}) as hub:
        wait_for_refresh(hub)
        registry.served()
        for _ in range(3):
            wait_for_refresh(hub)
        name = namespace.partition("/")[2]
        lists = [item for item in registry.served() if f"/{name}/models/tags/list" in item.target]
        assert 3 <= len(lists) <= 4


def test_no_command_line_has_the_token(layout: Layout, tmp_path: Path):
    (tmp_path / "token").write_text(TOKEN)
    with serving(tmp_path, f"oci:{layout.folder.parent}", "--token-file", tmp_path / "token", workers=2) as hub:
        with connections(hub, 6) as opened:
            for connection in opened:
                connection.request("GET", PATH)
                assert connection.getresponse().status == 401
        pids = [hub.daemon.pid, *processes_below(hub.daemon.pid)]
        assert len(pids) == 4
        assert not any(TOKEN.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids)
        assert hub.get(PATH, Authorization=f"Bearer {TOKEN}").body == b"a"
