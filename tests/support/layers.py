"""Images of any kind, valid or hostile, written with the standard library only."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import zstandard

OCI_TAR = "application/vnd.oci.image.layer.v1.tar"


def file(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a regular file's entry."""
    return _entry(name, tarfile.REGTYPE, content, **fields)


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return _entry(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _entry(name, tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _entry(name, tarfile.LNKTYPE, linkname=target)


def special(name: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    return _entry(name, kind)


def _entry(name: str, kind: bytes, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode = kind, len(content), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(*entries: tuple[tarfile.TarInfo, bytes], form: Literal[0, 1, 2] = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar. Sizes in headers are written as given, even if they are false."""
    stream = io.BytesIO()
    for info, content in entries:
        stream.write(info.tobuf(form, "utf-8", "surrogateescape"))
        stream.write(content + bytes(-len(content) % 512))
    return stream.getvalue() + bytes(1024)


def image(path: Path, *layers: bytes, compression: str = "", tag: str = "latest", **config: Any) -> str:
    """Write an OCI layout with one image of these tars, the lowest first; return `oci:PATH:TAG`."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    compressors: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gzip": gzip.compress,
        "zstd": zstandard.compress,
    }
    compress = compressors[compression]
    media_type = OCI_TAR + (f"+{compression}" if compression else "")
    descriptors = [add(compress(layer), media_type) for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    settings = {"architecture": "amd64", "os": "linux", **config, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "config": add(_json(settings), "application/vnd.oci.image.config.v1+json"),
        "layers": descriptors,
    }
    write_index(path, [add(_json(manifest), "application/vnd.oci.image.manifest.v1+json")], [tag])
    return f"oci:{path}:{tag}"


def write_index(path: Path, manifests: Sequence[dict[str, Any]], tags: Sequence[str]) -> None:
    """Write index.json with a tag for each manifest."""
    named = [
        {**manifest, "annotations": {"org.opencontainers.image.ref.name": tag}}
        for manifest, tag in zip(manifests, tags, strict=True)
    ]
    (path / "oci-layout").write_bytes(b'{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": named}))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
