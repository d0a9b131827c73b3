"""Seeds that are binary: small tars."""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import zstandard

from llmstack.oci import tar_writer
from tests.support.layers import file, folder, hardlink, image, special, symlink, tar
from tests.support.weight_files import gguf, safetensors

_ENTRIES = [
    folder("REPO/"),
    file("REPO/config.json", b"{}"),
    file("REPO/sub/" + "n" * 150, b"x" * 600),
    file("REPO/.wh.gone"),
    file("REPO/sub/.wh..wh..opq"),
    symlink("REPO/link", "config.json"),
    hardlink("REPO/hard", "REPO/config.json"),
    file("/REPO/absolute"),
]


def made(name: str) -> list[bytes]:
    """Return the binary seeds of a target."""
    if name == "layer":
        return _layers()
    if name == "encoded_body":
        data = bytes(5000) + b"x" * 5000
        return [gzip.compress(data, mtime=0), zlib.compress(data), gzip.compress(data, mtime=0)[:-4]]
    if name == "weight_headers":
        entries = {
            "general.architecture": "llama",
            "llama.context_length": 4096,
            "tokenizer.ggml.tokens": ["a", "", "b"],
        }
        shards = safetensors({"a": ("F16", (2, 3)), "b": ("I32", ())})
        return [shards, shards[8:], *(gguf(entries, {"a": (2, 3), "b": ()}, order) for order in "<>")]
    return _archives() if name == "archive" else []


def _layers() -> list[bytes]:
    complete = tar(*_ENTRIES)
    ours = b"".join(tar_writer.layer([tar_writer.TarFile("REPO/é" * 60, 3)], [[b"abc"]]))
    odd = tar(special("REPO/pipe", tarfile.FIFOTYPE), file("REPO/s", pax_headers={"GNU.sparse.major": "1"}))
    records = file("PaxHeaders/x", b"5 a=\n" * 2000 + b"18 path=REPO/pax\n", type=tarfile.XHDTYPE)
    return [
        complete,
        tar(*_ENTRIES, form=tarfile.GNU_FORMAT),
        ours,
        odd,
        complete[:1536] + b"\nnext layer\n" + tar(*_ENTRIES[:2]),
        gzip.compress(complete, mtime=0),
        zstandard.compress(complete),
        gzip.compress(b"", mtime=0) * 500 + gzip.compress(complete, mtime=0),
        tar(records, file("REPO/a")),
        zstandard.compress(tar(*(file(f"REPO/{number}/a/b/c") for number in range(2000)))),
    ]


def _archives() -> list[bytes]:
    with TemporaryDirectory() as name:
        path = Path(name) / "layout"
        image(path, tar(file("REPO/a", b"a")))
        found = {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}
    blobs = [path for path in found if path.startswith("blobs/")]
    config = next(path for path in blobs if b"rootfs" in found[path])
    layers = [path for path in blobs if b"REPO/a" in found[path]]
    listed = json.dumps([{"Config": config, "RepoTags": ["a/b:c"], "Layers": layers}]).encode()
    linked = json.dumps([{"Config": config, "RepoTags": None, "Layers": ["two/layer.tar"]}]).encode()
    return [
        tar(*(file(path, data) for path, data in found.items()), file("manifest.json", listed)),
        tar(
            file(config, found[config]),
            symlink("two/layer.tar", "../one/layer.tar"),
            file("one/layer.tar", found[layers[0]]),
            file("manifest.json", linked),
        ),
    ]
