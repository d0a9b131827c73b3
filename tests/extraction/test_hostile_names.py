"""Hostile images and registries on the command line: terminal escapes in names, and answers without end."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmstack.oci.layout import Layout
from llmstack.oci.spec import LAYER_TAR, Descriptor
from tests.extraction.support import contents
from tests.extraction.test_hostile import add
from tests.support.carried import carry, put_image
from tests.support.cli import Run, run_llmstack
from tests.support.layers import file, image, symlink, tar, write_index
from tests.support.memory import measure_llmstack
from tests.support.webserver import Request, Response, WebServer

# Sets a window title, moves the cursor up, reverses text direction, and starts a new line.
ESCAPES = "\x1b]0;owned\x07\x1b[1A\x1b[2K\u202e\x9b31m\r\nerror: none"


def is_harmless(run: Run) -> bool:
    """Tell whether only printable characters and newlines were printed."""
    return all(char == "\n" or char.isprintable() for char in run.stdout + run.stderr)


@pytest.fixture
def evil(tmp_path: Path) -> str:
    """A namespace with an image whose strings are all hostile, and whose only file is damaged."""
    store = Layout(tmp_path / "carried/models")
    index = carry(store, "t", {"a": b"a"})
    (one,) = index.files
    false = replace(one, path=f"sub/{ESCAPES}", sha256="0" * 64)
    hostile = replace(index, repo_id=ESCAPES, revision=ESCAPES, license=ESCAPES, files=(false,))
    put_image(store, f"t{ESCAPES}", hostile, [Descriptor(LAYER_TAR, one.ranges[0].layer, 2048)])
    return f"oci:{tmp_path}/carried"


def test_terminal_escapes_in_a_file_index_are_not_printed(evil, tmp_path):
    argument = f"{evil}/models:t{ESCAPES}"
    for command, code in (
        (("list", "--from", evil), 0),
        (("inspect", argument), 0),
        (("verify", argument), 5),
        (("extract", argument, tmp_path / "out"), 5),
    ):
        done = run_llmstack(*command)
        assert done.code == code, (command, done.stderr)
        assert "owned" in done.stdout + done.stderr
        assert is_harmless(done), command


def test_terminal_escapes_in_a_tar_are_not_printed(tmp_path):
    for number, layer in enumerate(
        (
            tar(file(f"REPO/../{ESCAPES}", b"x")),
            tar(file("REPO/a", b"x"), symlink(f"REPO/{ESCAPES}", "nowhere")),
        )
    ):
        done = run_llmstack("extract", image(tmp_path / str(number), layer), tmp_path / f"out{number}")
        assert (done.code, is_harmless(done)) == (5 if number != 1 else 0, True), done.stderr


@pytest.fixture
def answers() -> Iterator[dict[str, Response]]:
    """A registry with a configurable answer per path; `host` is the registry part of a reference."""
    known: dict[str, Response] = {}

    def answer(request: Request) -> Response:
        return known.get(request.path, Response(404))

    server = WebServer(answer)
    server.start()
    known["host"] = Response(200, body=server.url.removeprefix("http://").encode())
    yield known
    server.stop()


def test_terminal_escapes_in_registry_answers_are_not_printed(answers):
    host = answers["host"].body.decode()
    body = json.dumps({"errors": [{"code": ESCAPES, "message": ESCAPES}]}).encode()
    answers["/v2/a/b/manifests/c"] = Response(418, {"X": "y"}, body)
    done = run_llmstack("inspect", f"{host}/a/b:c")
    assert (done.code, is_harmless(done)) == (1, True)
    answers["/v2/a/models/tags/list"] = Response(200, {}, json.dumps({"tags": [ESCAPES]}).encode())
    done = run_llmstack("list", "--from", f"{host}/a", "--type", "model")
    assert is_harmless(done), done


@pytest.mark.parametrize("length", [None, 5])
def test_an_endless_manifest_is_refused_at_the_size_limit(answers, length):
    manifest = b'{"schemaVersion": 2, "layers": [' + b" " * 100_000_000
    headers = {} if length is None else {"Docker-Content-Digest": "sha256:" + "0" * 64}
    answers["/v2/a/b/manifests/c"] = Response(200, headers, manifest)
    measured = measure_llmstack("inspect", f"{answers['host'].body.decode()}/a/b:c")
    assert measured.run.code == 5
    assert "longer than" in measured.run.stderr
    assert measured.memory < 100_000_000


def test_circular_image_indexes_are_refused(answers):
    """An index cannot hold its own digest, but a registry may answer anything for a tag."""
    host = answers["host"].body.decode()
    inner = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + "1" * 64, "size": 300}
    data = json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode()
    for name in ("c", inner["digest"]):
        answers[f"/v2/a/models/manifests/{name}"] = Response(200, {}, data)
    answers["/v2/a/models/tags/list"] = Response(200, {}, b'{"tags": ["c"]}')
    done = run_llmstack("inspect", f"{host}/a/models:c")
    assert (done.code, "digest" in done.stderr) == (5, True), done.stderr
    assert "digest" in run_llmstack("list", "--from", f"{host}/a", "--type", "model").stdout


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_file_index_bomb_uses_little_memory(tmp_path, compression):
    """A file index of some kilobytes that decompresses to a quarter of a gigabyte."""
    bomb = b'{"format":"1","files":[],"x":[' + b"[]," * (80 * 1024 * 1024) + b"[]]}"
    info, _ = file(".llmstack/index.json", size=len(bomb))
    labels = {"config": {"Labels": {"dev.llmstack.format": "1"}}}
    name = image(tmp_path / "image", tar((info, bomb)), compression=compression, **labels)
    measured = measure_llmstack("inspect", name)
    assert measured.run.code == 5
    assert measured.memory < 100_000_000


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_bomb_is_refused_by_the_disk_space_it_needs(tmp_path, compression):
    """The file's declared size is checked before a byte of it is decompressed."""
    info, _ = file("REPO/bomb", size=1 << 50)
    name = image(tmp_path / "image", info.tobuf() + bytes(64 * 1024 * 1024), compression=compression)
    measured = measure_llmstack("extract", name, tmp_path / "out")
    assert measured.run.code == 6
    assert measured.memory < 100_000_000
    assert contents(tmp_path / "out") == {}


def test_gzip_members_after_the_tar_are_not_decompressed(tmp_path):
    good = gzip.compress(tar(file("REPO/good", b"good")))
    bomb = gzip.compress(bytes(64 * 1024 * 1024)) * 64
    run = measure_llmstack("extract", image(tmp_path / "image", good + bomb), tmp_path / "out")
    assert run.run.code == 0
    assert run.seconds < 30
    assert contents(tmp_path / "out") == {"good": b"good"}


def test_a_valid_tar_with_another_digest_is_refused(tmp_path):
    """The blob is a valid tar, but not the one that the manifest names."""
    name = image(tmp_path / "image", tar(file("REPO/a", b"good")))
    for blob in (tmp_path / "image/blobs/sha256").iterdir():
        if b"REPO/a" in blob.read_bytes():
            blob.write_bytes(tar(file("REPO/a", b"evil")))
    done = run_llmstack("extract", name, tmp_path / "out")
    assert (done.code, "digest" in done.stderr) == (5, True)
    assert contents(tmp_path / "out") == {}


def test_wide_nested_image_indexes_are_read_once_each(tmp_path):
    leaf = add(tmp_path / "image", {"schemaVersion": 2, "manifests": []})
    for _ in range(2):
        leaf = add(tmp_path / "image", {"schemaVersion": 2, "manifests": [leaf] * 1000})
    write_index(tmp_path / "image", [leaf], ["t"])
    assert run_llmstack("verify", f"oci:{tmp_path}/image:t").code == 5
