"""A base image for tests: busybox for two platforms as an OCI layout, written with the standard library only.

Uses no code of llmstack, which it tests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from tests.support.process import RigError, need

PLATFORMS: tuple[dict[str, str], ...] = (
    {"architecture": "amd64", "os": "linux"},
    {"architecture": "arm64", "os": "linux", "variant": "v8"},
)
CREATED = "2024-01-01T00:00:00Z"
Descriptor = dict[str, Any]


def write_busybox_layout(folder: Path) -> Path:
    """Write a layout with the tag `latest`, with the same bytes in every run; return the directory.

    All platforms have this machine's busybox; /etc/platform has the name of the platform.
    """
    layout = _Layout(folder)
    binary = _busybox()
    applets = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    manifests = [_add_platform(layout, platform, binary.read_bytes(), applets) for platform in PLATFORMS]
    index = layout.add_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        }
    )
    named = {**index, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [named],
            }
        )
    )
    return folder


def _busybox() -> Path:
    binary = Path(need("busybox", "busybox-static"))
    if b"/ld-linux" in binary.read_bytes():
        raise RigError(f"{binary} needs shared libraries: apt-get install busybox-static (`make system` does it)")
    return binary


def _add_platform(layout: _Layout, platform: dict[str, str], binary: bytes, applets: list[str]) -> Descriptor:
    tar = _root_filesystem(platform, binary, applets)
    layer = layout.add(gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    config = layout.add_json(
        {
            **platform,
            "created": CREATED,
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"rig.base": "busybox"}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
            "history": [{"created": CREATED, "created_by": "rig"}],
        },
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = layout.add_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        }
    )
    return {**manifest, "platform": platform}


def _root_filesystem(platform: dict[str, str], binary: bytes, applets: list[str]) -> bytes:
    """Return the tar of the layer; applets are hard links, as in Docker Hub's busybox."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in {"bin": 0o755, "etc": 0o755, "root": 0o700, "tmp": 0o1777}.items():
            _add(tar, name, tarfile.DIRTYPE, mode)
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, content=binary)
        for applet in sorted(set(applets) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.LNKTYPE, 0o755, target="bin/busybox")
        _add(tar, "etc/passwd", tarfile.REGTYPE, 0o644, content=b"root:x:0:0:root:/root:/bin/sh\n")
        _add(tar, "etc/group", tarfile.REGTYPE, 0o644, content=b"root:x:0:\n")
        text = "/".join(platform[key] for key in ("os", "architecture", "variant") if key in platform)
        _add(tar, "etc/platform", tarfile.REGTYPE, 0o644, content=f"{text}\n".encode())
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, *, content: bytes = b"", target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size, member.linkname = kind, mode, len(content), target
    tar.addfile(member, io.BytesIO(content))


class _Layout:
    """The blobs of an OCI layout."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs/sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)

    def add(self, data: bytes, media_type: str) -> Descriptor:
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def add_json(self, value: Any, media_type: str | None = None) -> Descriptor:
        return self.add(json.dumps(value, separators=(",", ":")).encode(), media_type or value["mediaType"])
