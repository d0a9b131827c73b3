"""Run `llmstack ferry` as a process, and check its images with other programs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cli import Run, run_llmstack
from tests.support.hub import Hub
from tests.support.process import START_TIMEOUT, need
from tests.support.registry import Registry, Served

MiB = 1024 * 1024


def skopeo(*arguments: str | Path) -> str:
    """Run skopeo against registries on this machine; return its output."""
    command = [need("skopeo", "skopeo"), "--insecure-policy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Port:
    """A hub, a registry with its own namespace, and a working directory."""

    hub: Hub
    registry: Registry
    space: str
    base: str
    folder: Path

    def ferry(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Run:
        """Run `llmstack ferry` with `--to` and `--base`, unless the arguments have them."""
        return run_llmstack(*self.command(*arguments), cwd=self.folder, env=env)

    def command(self, *arguments: str | Path) -> list[str]:
        given = [str(argument) for argument in arguments]
        to = [] if "--to" in given else ["--to", self.space]
        base = [] if "--base" in given else ["--base", self.base]
        return ["ferry", *given, *to, *base]

    def results(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Run it with --json, check its exit code, and return the results."""
        run = self.ferry("--json", *arguments, env=env)
        assert run.code == 0, run.stderr
        return list(run.json["results"])

    def start(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start it in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "llmstack", *self.command(*arguments)],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def image(self, tag: str, kind: str = "models") -> str:
        return f"{self.space}/{kind}:{tag}"

    def inspect(self, tag: str, kind: str = "models", platform: str | None = None) -> dict[str, Any]:
        """Return the output of `skopeo inspect`."""
        chosen = ["--override-arch", platform] if platform else []
        return dict(json.loads(skopeo(*chosen, "inspect", "--tls-verify=false", f"docker://{self.image(tag, kind)}")))

    def manifest(self, tag: str) -> dict[str, Any]:
        """Return the manifest for one platform."""
        return dict(json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{self._amd64(tag)}")))

    def _amd64(self, tag: str) -> str:
        index = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{self.image(tag)}"))
        return f"{self.space}/models@{index['manifests'][0]['digest']}"

    def tags(self, kind: str = "models") -> list[str]:
        """Return the tags on the registry's disk."""
        place = self.repository(kind) / "_manifests/tags"
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def repository(self, kind: str = "models") -> Path:
        return self.registry.root / "docker/registry/v2/repositories" / self.space.partition("/")[2] / kind

    def uploads(self) -> list[Path]:
        """Return the data files of uploads that are neither finished nor cancelled."""
        return [path for path in self.repository().glob("_uploads/*/data") if path.exists()]

    def files(self, tag: str, kind: str = "models") -> dict[str, bytes]:
        """Return the image's files under REPO/, from a copy by skopeo that preserves all digests."""
        copy = self.folder.parent / f"copy-{hashlib.sha1(os.urandom(8)).hexdigest()}"
        image = f"docker://{self.image(tag, kind)}"
        skopeo("copy", "--all", "--preserve-digests", "--src-tls-verify=false", image, f"oci:{copy}:x")
        return repo_files(copy)


def repo_files(layout: Path, tag: str | None = None) -> dict[str, bytes]:
    """Return the files under REPO/ of an image in a layout, read by tarfile; all platforms must be equal."""
    index = _json(layout / "index.json")
    named = "org.opencontainers.image.ref.name"
    (top,) = [one for one in index["manifests"] if tag in {None, one.get("annotations", {}).get(named)}]
    found = []
    for entry in _blob_json(layout, top["digest"])["manifests"]:
        files: dict[str, bytes] = {}
        for layer in _blob_json(layout, entry["digest"])["layers"]:
            with tarfile.open(fileobj=io.BytesIO(_blob(layout, layer["digest"]))) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if member.name.startswith("REPO/") and content:
                        files[member.name.removeprefix("REPO/")] = content.read()
        found.append(files)
    assert all(files == found[0] for files in found)
    return found[0]


def _blob(layout: Path, digest: str) -> bytes:
    data = (layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    return data


def _blob_json(layout: Path, digest: str) -> Any:
    return json.loads(_blob(layout, digest))


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def wait_until(ready: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Poll until `ready`; the process must not end before."""
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def moving(served: list[Served]) -> list[Served]:
    """Return the requests that write."""
    return [request for request in served if request.method not in {"GET", "HEAD"}]
