"""The largest sizes, numbers and names, and the memory for them; `make sizes` measures the larger cases."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmstack.ferrying.layer_plan import MAX_LAYERS, Limits
from tests.extraction.support import contents
from tests.support.hub import Generated, Hub
from tests.support.memory import Measured, measure_llmstack
from tests.support.sink import Sink

pytestmark = pytest.mark.slow

LIMIT = 150_000_000
LARGE = Limits().large


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def llmstack(*arguments: str | Path) -> Measured:
    measured = measure_llmstack(*arguments, "--quiet")
    assert measured.run.code == 0, measured.run.stderr
    assert measured.memory < LIMIT
    return measured


def there_and_back(hub: Hub, sink: Sink, files: dict[str, bytes | Generated], out: Path) -> None:
    """Carry a repo, extract it, and compare the bytes."""
    repo = hub.add_repo("org/model", files)
    llmstack("ferry", "org/model", "--to", f"{sink.host}/llm", "--base", "scratch")
    llmstack("extract", "org/model", out, "--from", f"{sink.host}/llm")
    assert contents(out) == {path: file.read(0, file.size) for path, file in repo.head().files.items()}


def test_names(hub, sink, tmp_path):
    """Linux limits names to 255 bytes, and paths in system calls to 4096 bytes."""
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    names = [
        "x" * 255,
        "é" * 127,
        "模型" * 42 + "abc",
        "🤗" * 63,
        "with/" + "y" * 255 + "/" + "z" * 255,
        "/".join(["deep"] * 255) + "/file",
        "case/readme",
        "case/README",
        "case/ReadMe/inside",
        f"{composed} and",
        f"{decomposed} and",
        "עברית \u202e rtl",
        "tab\tand\nline",
        "back\\slash",
        "-rf",
        "~",
        "%2e%2e%2f",
        "a?b#c&d",
        " spaces ",
        "...",
        ".hidden",
        "REPO/REPO",
        "\x7f\x01",
        "con.txt",
        "a:b",
    ]
    there_and_back(hub, sink, {name: b"%d" % number for number, name in enumerate(names)}, tmp_path / "out")


def test_sizes_around_the_edges_of_blocks_and_layers(hub, sink, tmp_path):
    sizes = (0, 1, 511, 512, 513, 10 * 1024, 10 * 1024 + 1, LARGE - 1, LARGE, LARGE + 1)
    there_and_back(hub, sink, {f"{size:09}": Generated(size, size) for size in sizes}, tmp_path / "out")


def test_many_files(hub, sink, tmp_path):
    files = {f"{n // 100}/{n}.json": Generated(n % 700, n) for n in range(2500)}
    there_and_back(hub, sink, files, tmp_path / "out")


def test_more_large_files_than_there_are_layers(hub, sink):
    """300 shards would be 300 layers; Docker allows 125."""
    hub.add_repo("org/model", {f"{n:03}.safetensors": Generated(LARGE, 0) for n in range(MAX_LAYERS + 10)})
    llmstack("ferry", "org/model", "--to", f"{sink.host}/llm", "--base", "scratch")
    manifests = sink.repositories["llm/models"].manifests.values()
    layers = {data.count(b"image.layer.v1.tar") for _, data in manifests if b'"layers"' in data}
    assert 1 < max(layers) <= MAX_LAYERS


def test_a_terabyte_is_planned(hub, sink):
    file = Generated(5 * 1000**3, sha256="0" * 64)
    hub.add_repo("org/model", {f"{n:03}.safetensors": file for n in range(200)})
    done = llmstack("ferry", "org/model", "--to", f"{sink.host}/llm", "--base", "scratch", "--dry-run", "--json")
    assert done.run.json["results"][0]["bytes_total"] == 10**12
    assert sink.blobs == {}
