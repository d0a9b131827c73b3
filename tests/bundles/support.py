"""A near and a far directory with a bundle in between, used through the Python API."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmstack.bundles.load import LoadResult
from llmstack.bundles.save import SaveResult
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.spec import MANIFEST, Descriptor, RawManifest, canonical_json
from llmstack.oci.store import BlobStore, write_bytes
from llmstack.session import Session
from tests.support.carried import carry
from tests.support.disk import as_root
from tests.support.process import need

SIGNATURE = "application/vnd.dev.sigstore.bundle.v0.3+json"
FILES = {
    "config.json": b'{"model_type": "opt"}',
    "a.safetensors": random.Random(1).randbytes(1_500_000),
    "b.safetensors": random.Random(2).randbytes(700_000),
}


class Gap:
    """A namespace on each side. They share nothing but the directories of bundles."""

    def __init__(self, folder: Path, near: str = "oci:near", far: str = "oci:far") -> None:
        self.folder = folder
        os.chdir(folder)
        self.near, self.far = near, far
        self.session = Session.from_settings()

    def carry(self, repo_id: str = "org/model", files: Mapping[str, bytes] = FILES, **options: Any) -> None:
        """Put an image into the near directory."""
        repo_type = options.get("repo_type", "model")
        tag = options.pop("tag", repo_id.replace("/", "--"))
        carry(Layout(self.folder / f"near/{repo_type}s"), tag, files, repo_id=repo_id, **options)

    def save(self, name: str, *images: str, **options: Any) -> SaveResult:
        return self.session.save(images, self.folder / name, source=self.near, **options)

    def load(self, *names: str | Path, **options: Any) -> LoadResult:
        """Load one bundle; raises its error."""
        [result] = self.session.load([self.folder / name for name in names], to=self.far, **options)
        return result

    def try_load(self, *names: str | Path, **options: Any) -> tuple[list[LoadResult], list[Any]]:
        """Load bundles; return results and errors."""
        errors: list[Any] = []
        paths = [self.folder / name for name in names]
        return self.session.load(paths, to=self.far, on_failure=errors.append, **options), errors

    def inventory(self, name: str = "have.json") -> Path:
        """Write the inventory of the far side into a file."""
        path = self.folder / name
        path.write_text(json.dumps(self.session.inventory(self.far).to_json()))
        return path

    def far_layout(self, repository: str = "models") -> Layout:
        return Layout(self.folder / "far" / repository)

    def far_files(self, repo_id: str = "org/model", repo_type: str = "model") -> dict[str, bytes]:
        """Extract a repo on the far side, verified."""
        out = self.folder / f"out-{random.randrange(10**9)}"
        self.session.extract(repo_id, out, source=self.far, repo_type=repo_type)
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def far_tags(self) -> dict[str, str]:
        """Return the digests of all tags on the far side, without those of load itself."""
        found = {}
        for index in (self.folder / "far").glob("*/index.json"):
            if index.parent.name != "bundles":
                digests = Layout(index.parent).digests()
                found |= {f"{index.parent.name}:{tag}": str(digest) for tag, digest in digests.items()}
        return found


def sign(store: BlobStore, tag: str, text: bytes = b'{"signature": 1}') -> Digest:
    """Attach a signature to the image of a tag, as cosign does; return its digest."""
    subject = store.manifest(tag).descriptor
    for data in (text, b"{}"):
        write_bytes(store, data)
    value = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": SIGNATURE,
        "config": Descriptor("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2).to_json(),
        "layers": [Descriptor(SIGNATURE, Digest.of(text), len(text)).to_json()],
        "subject": subject.to_json(),
    }
    raw = RawManifest(MANIFEST, canonical_json(value))
    store.put_manifest(raw)
    return raw.digest


def checksums_are_right(volume: Path) -> bool:
    """Check a volume with coreutils."""
    return subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=volume, check=False).returncode == 0


def rewrite(volume: Path, change: Any) -> None:
    """Change the JSON of bundle.json as an attacker would: with a matching id and matching checksums."""
    document = json.loads((volume / "bundle.json").read_text())
    change(document)
    document["id"] = Digest.of(canonical_json(document["contents"]))
    data = canonical_json(document) + b"\n"
    (volume / "bundle.json").write_bytes(data)
    sums = (volume / "SHA256SUMS").read_text().splitlines()
    sums = [line for line in sums if not line.endswith(" bundle.json")]
    sums.append(f"{hashlib.sha256(data).hexdigest()}  bundle.json")
    (volume / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def mount_image(image: Path, folder: Path, *options: str) -> None:
    """Mount a disk image through a loop device."""
    folder.mkdir(exist_ok=True)
    mount = [*as_root(), need("mount", "mount"), "-o", ",".join(("loop", *options)), str(image), str(folder)]
    subprocess.run(mount, check=True)
