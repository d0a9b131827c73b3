"""Read the content of a registry or a layout from its disk, without llmstack."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.registry import Registry


class Stored:
    """One repository of a registry."""

    def __init__(self, registry: Registry, name: str) -> None:
        self._registry = registry
        self._folder = registry.root / "docker/registry/v2/repositories" / name

    def tags(self) -> set[str]:
        folder = self._folder / "_manifests/tags"
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def uploads(self) -> set[str]:
        """Return the uploads that are neither finished nor cancelled."""
        return {path.parent.name for path in self._folder.glob("_uploads/*/data")}

    def files(self, tag: str) -> dict[str, bytes]:
        """Return the files of an image under REPO/."""
        return _files(self._link(tag), self._blob)

    def document(self, tag: str) -> Any:
        """Return the index under a tag."""
        return self.blob_json(self._link(tag))

    def blob_json(self, digest: str) -> Any:
        return json.loads(self._blob(digest))

    def blobs(self) -> list[str]:
        return [f"sha256:{path.name}" for path in (self._folder / "_layers/sha256").iterdir()]

    def size(self, digest: str) -> int:
        return self._registry.blob_file(digest).stat().st_size

    def lose_blob(self, digest: str) -> None:
        """Remove a blob from the repository, as a garbage collection does."""
        (self._folder / "_layers/sha256" / digest.removeprefix("sha256:") / "link").unlink()

    def _link(self, tag: str) -> str:
        return (self._folder / "_manifests/tags" / tag / "current/link").read_text()

    def _blob(self, digest: str) -> bytes:
        return self._registry.blob_file(digest).read_bytes()


def layout_tags(layout: Path) -> dict[str, str]:
    """Return the digests of a layout's images by their tags."""
    index = layout / "index.json"
    entries = json.loads(index.read_bytes())["manifests"] if index.exists() else []
    return {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in entries}


def layout_files(layout: Path, tag: str) -> dict[str, bytes]:
    return _files(
        layout_tags(layout)[tag], lambda digest: (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    )


def _files(top: str, read: Callable[[str], bytes]) -> dict[str, bytes]:
    def blob(digest: str) -> bytes:
        data = read(digest)
        assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        return data

    def document(digest: str) -> Any:
        return json.loads(blob(digest))

    found = []
    for entry in document(top)["manifests"]:
        files = {}
        manifest = document(entry["digest"])
        document(manifest["config"]["digest"])
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(blob(layer["digest"]))) as archive:
                members = [member for member in archive if member.name.startswith("REPO/") and not member.isdir()]
                files |= {member.name.removeprefix("REPO/"): archive.extractfile(member).read() for member in members}
        found.append(files)
    assert found
    assert all(files == found[0] for files in found)
    return found[0]
