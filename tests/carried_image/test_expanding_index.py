"""File indexes that expand: what is read and kept is limited by what was sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.layers import file, image, tar
from tests.support.memory import measure_llmstack


def members() -> Iterator[bytes]:
    yield b'{"format":"1","files":[]'
    for number in range(1000):
        yield b',"%d":"%s"' % (number, b"x" * 100_000)
    yield b"}"


def files() -> Iterator[bytes]:
    """Valid entries, which are kept."""
    name = b'"layer":"sha256:%s","offset":0,"oid":"%s","sha256":"%s","size":0' % (b"0" * 64, b"0" * 40, b"0" * 64)
    yield b'{"format":"1","files":[{"path":"a",%s}' % name
    for number in range(400_000):
        yield b',{"path":"%d",%s}' % (number, name)
    yield b"]}"


def values() -> Iterator[bytes]:
    yield b'{"format":"1","files":[],"x":['
    for _ in range(1000):
        yield b"[]," * 30_000
    yield b"[]]}"


@pytest.mark.slow
@pytest.mark.parametrize("index", [members, files, values])
def test_an_index_that_expands_is_refused(tmp_path, index):
    layer = tar(file(".llmstack/index.json", b"".join(index())))
    labels = {"config": {"Labels": {"dev.llmstack.format": "1"}}}
    name = image(tmp_path / "image", layer, compression="zstd", **labels)
    measured = measure_llmstack("inspect", name)
    assert measured.run.code == 5, measured.run.stderr
    assert "limit is" in measured.run.stderr
    assert measured.memory < 100_000_000
    assert measured.seconds < 20
