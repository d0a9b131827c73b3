"""Reading files: dropped connections, wrong bytes, slow servers, signed URLs that expire."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmstack.errors import IntegrityError, NotAuthorizedError, NotFoundError, UnavailableError
from llmstack.hf import hub_client as api
from llmstack.hf.file_hash import FileHash
from llmstack.hf.snapshot import HubFile
from llmstack.net import Client
from llmstack.net.retry import Cancelled
from tests.hf.support import DATA, read
from tests.support import hub as rig


@pytest.mark.parametrize("cdn", [True, False])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, len(DATA) - 1), min_size=1, max_size=4))
def test_dropped_connections_anywhere(hub: rig.Hub, ask, cdn: bool, cuts: list[int]):
    hub.cdn = cdn
    hub.faults.clear()
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    for cut in cuts:
        hub.fault("*/weights.bin", drop_after=cut)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_permanent_connection_drops(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", drop_after=0, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(UnavailableError, match="closed the connection") as raised:
        read(source, info, "weights.bin")
    assert (raised.value.side, raised.value.exit_code) == ("source", 6)
    assert "Signature" not in str(raised.value)


@pytest.mark.parametrize("path", ["weights.bin", "config.json"])
@pytest.mark.parametrize("at", [0, 1])
def test_wrong_bytes(hub: rig.Hub, ask, path: str, at: int):
    hub.add_repo("org/tiny", {"weights.bin": DATA, "config.json": b"{}"})
    hub.fault(f"*/{path}", corrupt_at=at)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(IntegrityError, match=path) as raised:
        read(source, info, path)
    assert (raised.value.side, raised.value.exit_code) == ("source", 5)


@pytest.mark.parametrize("size", [0, 1, 199_999])
def test_a_truncated_file(hub: rig.Hub, ask, size: int):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", truncate_to=size)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(IntegrityError, match=f"has {size} bytes, expected 200000") as raised:
        read(source, info, "weights.bin")
    assert raised.value.side == "source"


def test_a_server_that_ignores_range(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", drop_after=1000)
    hub.fault("*/weights.bin", ignore_range=True)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_a_signed_url_that_expires_is_renewed(hub: rig.Hub, ask):
    """All signed URLs expire with the first response, which drops the connection: first, the storage is asked again."""
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", drop_after=1000, expire=True)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    ranges = [entry.headers.get("range") for entry in hub.log.files("*/weights.bin")]
    assert ranges == [None, None, *["bytes=1000-199999"] * 3]


def test_a_storage_that_refuses_a_new_url_once(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", status=403, times=2)
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA


def test_a_storage_that_refuses_every_url(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="cdn", status=403, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(UnavailableError, match="the storage of the Hub responded with 403"):
        read(source, info, "weights.bin")


def test_a_refusal_of_the_hub_is_not_taken_for_one_of_the_storage(hub: rig.Hub, ask):
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    hub.fault("*/weights.bin", host="hub", status=403, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    with pytest.raises(NotAuthorizedError):
        read(source, info, "weights.bin")
    assert len(hub.log.files()) == 1


def test_a_deleted_commit(hub: rig.Hub, ask):
    repo = hub.add_repo("org/tiny", {"config.json": b"{}"})
    source = ask()
    info = source.info("org/tiny", "model", "main")
    file = source.snapshot(info).files[0]
    del repo.commits[repo.sha]
    with pytest.raises(NotFoundError, match=r"config\.json: not found") as raised:
        list(source.read(info, file, 0, file.size))
    assert "rerun the command" in (raised.value.hint or "")


def test_a_large_file_is_read_in_several_ranges(hub: rig.Hub, ask, monkeypatch: pytest.MonkeyPatch):
    """The real storage rejects a GET of more than 50 GB; the test uses a smaller range."""
    monkeypatch.setattr(api, "RANGE_WINDOW", 70_000)  # 32 GB would take too long
    hub.add_repo("org/tiny", {"weights.bin": DATA})
    source = ask()
    assert read(source, source.info("org/tiny", "model", "main"), "weights.bin") == DATA
    ranges = [entry.headers["range"] for entry in hub.log.files(method="GET") if entry.host == "cdn"]
    assert ranges == ["bytes=0-69999", "bytes=70000-139999", "bytes=140000-199999"]


def test_a_cancel_ends_a_slow_file(hub: rig.Hub, ask, client: Client):
    hub.add_repo("org/tiny", {"weights.bin": os.urandom(3_000_000)})
    hub.fault("*/weights.bin", bytes_per_second=2_000_000, times=None)
    source = ask()
    info = source.info("org/tiny", "model", "main")
    chunks = source.read(info, source.snapshot(info).files[0], 0, 3_000_000)
    next(chunks)
    client.cancel.set()
    with pytest.raises(Cancelled):
        list(chunks)


@given(st.binary(max_size=200), st.booleans())
def test_hashes_equal_those_of_the_hub(data: bytes, lfs: bool):
    oid = hashlib.sha256(data).hexdigest() if lfs else rig.git_oid(data)
    seen = FileHash(HubFile("x", len(data), oid))
    seen.update(data[:50])
    seen.update(data[50:])
    assert seen.matches
    assert seen.sha256 == hashlib.sha256(data).hexdigest()
    seen.update(b"more")
    assert not seen.matches
