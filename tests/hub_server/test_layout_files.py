"""Files of a layout are sent without a copy, and never unchecked."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from tests.hub_server.test_load import MEGABYTE
from tests.support.carried import carry
from tests.support.serving import Serving, serving

PATH = "/org/model/resolve/main/w.bin"
DATA = os.urandom(16 * MEGABYTE)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A layout with one repo."""
    layout = Layout(tmp_path / "carried/models")
    carry(layout, "org--model", {"w.bin": DATA})
    return layout


@pytest.fixture
def hub(layout: Layout, tmp_path: Path) -> Iterator[Serving]:
    """A hub that serves the layout."""
    with serving(tmp_path, f"oci:{layout.folder.parent}") as hub:
        yield hub


def blob(layout: Layout) -> Path:
    return max((layout.folder / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def test_every_copy_is_complete(hub: Serving):
    for _ in range(3):
        assert hub.get(PATH).body == DATA
        assert hub.get(PATH, Range="bytes=5-9999999").body == DATA[5:10_000_000]
        assert hub.get(PATH, Range="bytes=-70000").body == DATA[-70_000:]
        assert hub.get(PATH, Range="bytes=0-").body == DATA
    assert hub.metric("open_reads") == 0
    assert f"GET {PATH} 200 {len(DATA)} " in hub.output


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_changes_is_hashed_again(hub: Serving, layout: Layout, replaced: bool):
    assert hub.get(PATH).body == hub.get(PATH).body == DATA
    path, other = blob(layout), layout.folder / "other"
    data = bytearray(path.read_bytes())
    data[5_000_000] ^= 1
    other.write_bytes(data)
    # An attacker, or a careless copy, may keep the times.
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    if replaced:
        other.replace(path)
    else:
        with path.open("r+b") as file:
            file.write(data)
    for _ in range(2):
        with pytest.raises(http.client.IncompleteRead):
            hub.get(PATH)
    assert "does not match its sha256 in the file index" in hub.output


def test_a_truncated_file_is_never_complete(hub: Serving, layout: Layout):
    with hub.open(PATH) as response:
        assert response.read(1000) == DATA[:1000]
        assert response.read() == DATA[1000:]
    with hub.open(PATH) as response:
        assert response.read(1000) == DATA[:1000]
        with blob(layout).open("r+b") as file:
            file.truncate(8 * MEGABYTE)
        with pytest.raises(http.client.IncompleteRead):
            response.read()
    assert hub.get(PATH).status == 502
    assert "Traceback" not in hub.output


def test_a_client_that_disconnects_ends_the_transfer(hub: Serving):
    assert hub.get(PATH).body == DATA
    for _ in range(10):
        with hub.open(PATH) as response:
            assert response.read(1000) == DATA[:1000]
    while hub.metric("open_reads"):
        assert hub.daemon.alive
    assert "Traceback" not in hub.output
