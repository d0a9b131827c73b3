"""Helpers of the extract tests: a repo's files, `run` for extract, and `contents` for a directory."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.selection import Selection
from llmstack.engine.credentials import lookup
from llmstack.extraction.extract import ExtractRequest, ExtractResult, extract
from llmstack.net import Client
from llmstack.oci.layout import Layout
from llmstack.oci.repository import Registries
from llmstack.oci.spec import LAYER_TAR, Descriptor
from tests.support.carried import carry, put_image

_random = random.Random(7)

# A file large enough for its own layer, small files for two bundle layers, an empty one; deep, long and unusual names.
FILES = {
    "big.safetensors": _random.randbytes(3 * 1024 * 1024 + 17),
    "onnx/model.onnx": _random.randbytes(70_001),
    "config.json": b'{"model_type": "opt"}',
    "empty": b"",
    "deep/er/and/deep/er/vocab.txt": b"a\nb\n",
    "name with spaces & ünïcode 模型.txt": b"text",
    "n" * 200 + ".bin": b"long",
    **{f"small/{number:03}.bin": _random.randbytes(3000) for number in range(80)},
}


class RecordingReporter:
    """A reporter that records messages and counts bytes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.advanced = 0

    def begin(self, title: str, total: int) -> None: ...

    def end(self) -> None: ...

    def task(self, _name: str, _size: int) -> RecordingReporter:
        return self

    def advance(self, size: int) -> None:
        self.advanced += size

    def done(self) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


class CancelingReporter(RecordingReporter):
    """A reporter that sets `cancel` on the first bytes."""

    def __init__(self, cancel: Event) -> None:
        super().__init__()
        self._cancel = cancel

    def advance(self, size: int) -> None:
        super().advance(size)
        self._cancel.set()


def registries(client: Client) -> Registries:
    return Registries(client, lookup)


def run(
    argument: str, destination: Path | None, *, reporter: RecordingReporter | None = None, **options: Any
) -> ExtractResult:
    """Extract as the command does. `include` and `exclude` are tuples of globs."""
    selection = Selection(options.pop("include", ()), options.pop("exclude", ()))
    namespace = Namespace.parse(options.pop("namespace", "oci:/nowhere"))
    request = ExtractRequest(argument, destination, namespace, selection=selection, **options)
    with closing(Client(retry_wait=0.001)) as client:
        return extract(request, registries(client), client.cancel, reporter or RecordingReporter())


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below a directory by path, including hidden files and targets of links."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if not path.is_dir()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def put_with_oids(layout: Path, files: Mapping[str, bytes], oids: Mapping[str, str]) -> None:
    """Put an image into a layout whose file index lists these oids."""
    store = Layout(layout / "models")
    index = carry(store, "org--model", files)
    false = replace(index, files=tuple(replace(file, oid=oids.get(file.path, file.oid)) for file in index.files))
    layers = {layer for file in index.files for layer in file.layers}
    sizes = {layer: (store.folder / "blobs/sha256" / layer.hex).stat().st_size for layer in layers}
    put_image(store, "org--model", false, [Descriptor(LAYER_TAR, layer, size) for layer, size in sizes.items()])
