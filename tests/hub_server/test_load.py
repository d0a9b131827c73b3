"""Many clients, slow clients, disconnected clients and large files do not affect others, and memory stays bounded."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.support.carried import carry
from tests.support.process import processes_below
from tests.support.registry import Registry
from tests.support.serving import Door, Serving, repository, serving, sparse_repo

pytestmark = pytest.mark.slow

SIZE = 24 * 1024 * 1024
DATA = os.urandom(SIZE)
DIGEST = hashlib.sha256(DATA).hexdigest()
PATH = "/org/model/resolve/main/w.bin"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def behind_a_door(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, Door]]:
    """A hub that reaches its registry through a TCP proxy."""
    namespace = registry.namespace()
    carry(repository(namespace), "org--model", {"w.bin": DATA})
    with (
        Door(registry.host) as door,
        serving(tmp_path_factory.mktemp("hub"), namespace.replace(registry.host, door.name)) as hub,
    ):
        yield hub, door


def memory(hub: Serving, what: str) -> int:
    """Return a size of all processes in bytes (/proc/PID/status): VmRSS is the current one, VmHWM the peak.

    What they share counts several times.
    """
    total = 0
    for pid in (hub.daemon.pid, *processes_below(hub.daemon.pid)):
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{what}:"))) * 1024
    return total


def test_a_disconnected_client_ends_the_transfer(behind_a_door: tuple[Serving, Door]):
    hub, door = behind_a_door
    assert hub.get(PATH, Range="bytes=0-9").status == 206
    idle, before = door.connections, door.moved
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            assert stack.enter_context(hub.open(PATH)).read(1000)
        assert hub.metric("open_reads") == 10
        assert door.connections >= 10
    while hub.metric("open_reads") or door.connections > idle:
        assert hub.daemon.alive
    assert hub.output.count(f"GET {PATH} 200 ") == 10
    # Only what was already in transit.
    assert door.moved - before < 10 * SIZE * 0.75


def test_slow_clients_do_not_block_others(behind_a_door: tuple[Serving, Door]):
    """They are more than the reader threads, and each stops reading after its first bytes."""
    hub, _ = behind_a_door
    with contextlib.ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(hub.open(PATH))
        assert hub.metric("open_reads") == 80
        assert hashlib.sha256(hub.get(PATH).body).hexdigest() == DIGEST
        # Each transfer keeps only the chunks between two reads in memory.
        assert memory(hub, "VmRSS") < 400 * MEGABYTE


def test_two_hundred_clients_at_once(behind_a_door: tuple[Serving, Door]):
    hub, _ = behind_a_door

    def ask(number: int) -> bool:
        start = number * 100_003
        answer = hub.get(PATH, Range=f"bytes={start}-{start + MEGABYTE - 1}")
        return answer.body == DATA[start : start + MEGABYTE]

    with ThreadPoolExecutor(200) as clients:
        assert all(clients.map(ask, range(200)))
    assert hub.metric("open_reads") == 0
    assert memory(hub, "VmHWM") < 500 * MEGABYTE


def test_a_dropped_registry_connection_is_resumed(behind_a_door: tuple[Serving, Door]):
    hub, door = behind_a_door
    with hub.open(PATH) as response:
        head = response.read(MEGABYTE)
        door.shut()
        door.open()
        assert head + response.read() == DATA


def test_memory_does_not_grow_with_the_file_size(tmp_path: Path):
    size = 2 * 1000**3
    sparse_repo(Layout(tmp_path / "carried/models"), "org--big", size, hashed=True)
    with serving(tmp_path, f"oci:{tmp_path}/carried") as hub:
        before = memory(hub, "VmHWM")
        buffer = memoryview(bytearray(4 * MEGABYTE))
        with hub.open("/org/big/resolve/main/big.bin") as response:
            read = 0
            while count := response.readinto(buffer):
                read += count
        assert read == size
        assert memory(hub, "VmHWM") - before < 64 * MEGABYTE
