"""`ferry --split-large`: a file that is too large for one layer is split, and extracted as one file."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from llmstack.errors import IntegrityError
from llmstack.ferrying.layer_plan import SplitFile
from llmstack.ferrying.layer_stream import PartStream
from llmstack.hf.file_hash import FileHash
from llmstack.hf.snapshot import HubFile
from tests.support.cli import run_llmstack
from tests.support.ferry import Port, moving, skopeo, wait_until
from tests.support.listener import Listener

_random = random.Random(11)
BIG = _random.randbytes(5_000_003)
# Two files with the same bytes, a file that needs its own layer, and small ones.
FILES = {"big.gguf": BIG, "copy/big.gguf": BIG, "config.json": b"{}", "some.bin": _random.randbytes(900_000)}
LAYER = 2_000_000
CAP = {"LLMSTACK_MAX_LAYER": str(LAYER)}
# Headers take at most 2,560 bytes, and a part is a multiple of the tar block.
PART = (LAYER - 2560) // 512 * 512
RANGES = [f"bytes={start}-{min(start + PART, len(BIG)) - 1}" for start in range(0, len(BIG), PART)]


def carry(port: Port, *options: str, code: int = 0):
    run = port.ferry("org/big", "--split-large", "--json", *options, env=CAP)
    assert run.code == code, run.stderr
    return run.json["results"][0]


def asked(port: Port) -> list[str]:
    """Return the ranges of large files that were requested from the storage, in order."""
    return [entry.headers["range"] for entry in port.hub.log.files("*big.gguf") if entry.host == "cdn"]


def extract(source: str, out: Path, *options: str):
    run = run_llmstack("extract", "org/big", *([out] if "hf-cache" not in options else []), "--from", source, *options)
    assert run.code == 0, run.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ferry_and_extract_a_split_file(port, tmp_path, monkeypatch):
    repo = port.hub.add_repo("org/big", FILES)
    refused = port.ferry("org/big", env=CAP)
    assert refused.code == 2
    assert "'big.gguf' has 5.0 MB" in refused.stderr
    assert "--split-large" in refused.stderr
    assert "in 3 parts" in port.ferry("org/big", "--split-large", "--dry-run", env=CAP).stdout
    assert (moving(port.registry.served()), asked(port)) == ([], [])

    first = carry(port)
    assert (first["status"], first["bytes_transferred"]) == ("carried", sum(map(len, FILES.values())))
    assert sorted(asked(port)) == sorted(RANGES * 2)
    assert all(layer["size"] <= LAYER for layer in port.manifest("org--big")["layers"])
    inspected = run_llmstack("inspect", "org/big", "--from", port.space, "--json").json
    listed = {file["path"]: file for file in inspected["index"]["files"]}
    assert {path: file["size"] for path, file in listed.items()} == {path: len(data) for path, data in FILES.items()}
    assert [part["size"] for part in listed["big.gguf"]["parts"]] == [PART, PART, len(BIG) - 2 * PART]
    labels = port.inspect("org--big")["Labels"]
    assert (labels["dev.llmstack.format"], labels["dev.llmstack.split"]) == ("3", "true")
    verified = run_llmstack("verify", "org/big", "--from", port.space, "--json").json
    assert (verified["ok"], verified["files"]) == (True, len(FILES))

    copy = tmp_path / "copy"
    copy.mkdir()
    options = ("--all", "--preserve-digests", "--src-tls-verify=false")
    skopeo("copy", *options, f"docker://{port.image('org--big')}", f"oci:{copy}/models:org--big")
    extract(f"oci:{copy}", tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    port.registry.served()
    extract(port.space, tmp_path, "--layout", "hf-cache", "--include", "big.gguf")
    snapshot = tmp_path / "cache/models--org--big/snapshots" / repo.sha
    assert contents(snapshot) == {"big.gguf": BIG}
    sent = [request.length for request in port.registry.served() if request.status == 206]
    assert sum(sent) == len(BIG)

    # In another destination with the same layer limit it is the same image; with another limit, it is not.
    assert carry(port, "--to", f"oci:{tmp_path}/again")["digest"] == first["digest"]
    port.hub.log.clear()
    assert carry(port)["status"] == "up-to-date"
    repo.commit({"config.json": b'{"new": 1}'})
    second = carry(port)
    assert (second["bytes_reused"], asked(port)) == (2 * len(BIG), [])
    assert second["digest"] != first["digest"]
    repo.commit({"config.json": b'{"new": 2}'})
    other = port.ferry("org/big", "--split-large", "--json", env={"LLMSTACK_MAX_LAYER": "3 MB"})
    assert other.json["results"][0]["bytes_reused"] == 0
    assert run_llmstack("verify", "org/big", "--from", port.space).code == 0


def test_a_damaged_part_is_detected(port, tmp_path):
    port.hub.add_repo("org/big", {"big.gguf": BIG})
    source, out = f"oci:{tmp_path}/carried", tmp_path / "out"
    carry(port, "--to", source)
    index = run_llmstack("inspect", "org/big", "--from", source, "--json").json["index"]
    for part in index["files"][0]["parts"][::2]:
        blob = tmp_path / "carried/models/blobs/sha256" / part["layer"].removeprefix("sha256:")
        original = blob.read_bytes()
        damaged = bytearray(original)
        damaged[part["offset"] + part["size"] - 1] ^= 1
        blob.write_bytes(damaged)
        refused = run_llmstack("extract", "org/big", out, "--from", source)
        assert (refused.code, contents(out) if out.exists() else {}) == (5, {})
        assert run_llmstack("verify", "org/big", "--from", source).code == 5
        blob.write_bytes(original)
    extract(source, out)
    assert contents(out) == {"big.gguf": BIG}


def test_a_split_file_with_wrong_bytes_is_not_published(port):
    """The hub sends a wrong byte in the first part, which is detected at the end of the last one."""
    port.hub.add_repo("org/big", {"big.gguf": BIG})
    port.hub.fault("*/big.gguf", corrupt_at=7)
    failed = port.ferry("org/big", "--split-large", env=CAP)
    assert failed.code == 5
    assert "big.gguf" in failed.stderr
    assert port.uploads() == []
    # The partial image keeps the first two parts, but its file index does not list the file.
    assert port.tags() == ["org--big--partial"]
    assert len(port.manifest("org--big--partial")["layers"]) == 3
    assert carry(port)["bytes_reused"] == 0
    assert port.tags() == ["org--big"]


def test_a_ferry_killed_inside_a_split_file_resumes_to_the_same_image(port, tmp_path):
    port.hub.add_repo("org/big", FILES)
    # Both large files stall in their second part, before any smaller file.
    port.hub.fault("*/big.gguf", drop_after=PART, times=2)
    port.hub.fault("*/big.gguf", stall_after=1_000_000, times=None)
    process = port.start("org/big", "--split-large", "--jobs", "2", env=CAP)
    wait_until(lambda: asked(port).count(RANGES[1]) == 2, process)
    process.kill()
    process.communicate()
    assert "org--big" not in port.tags()

    port.hub.faults.clear()
    again = carry(port)
    fresh = carry(port, "--to", f"oci:{tmp_path}/fresh")
    assert again["digest"] == fresh["digest"]
    extract(port.space, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_part_is_hashed_once_if_its_upload_restarts():
    """The hash of the file is checked before the end of the last part's tar."""
    file = HubFile("big.gguf", len(BIG), hashlib.sha256(BIG).hexdigest())
    split = SplitFile(file, PART)

    def check(file_hash: FileHash) -> None:
        if not file_hash.matches:
            raise IntegrityError("they do not match")

    for sent, right in ((BIG, True), (bytes(1) + BIG[1:], False)):
        listener, seen = Listener(), FileHash(file)
        task = listener.task("big.gguf", len(BIG))
        for number, part in enumerate(split.tar_files):
            start = number * PART

            def read(start: int = start, stop: int = start + part.size, data: bytes = sent):
                for position in range(start, stop, 300_000):
                    yield data[position : min(position + 300_000, stop)]

            stream = PartStream(part, read, seen, task, check if number == 2 else None)
            broken = stream()
            next(broken)
            broken.close()
            if number == 2 and not right:
                with pytest.raises(IntegrityError, match="do not match"):
                    list(stream())
            else:
                assert sum(map(len, stream())) == split.layer_sizes[number]
                seen = stream.hash_after
        assert listener.tasks[0].moved == len(BIG)
