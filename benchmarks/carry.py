"""Compare ferry and extract with other tools for the same task, with one loopback hub and one registry.

    python -m benchmarks.carry            a 2 GB model in four files, and 5,000 files of 50 KB
    python -m benchmarks.carry --quick    a twentieth of the size, to check the benchmark itself

The files contain real weights, those of all-MiniLM-L6-v2, repeated. Random bytes would be unrealistic: Docker stops
compressing them early. Needs the programs of the tests (make system), curl, and root for the Docker Engine. oras and
crane are measured if they are on PATH. Prints Markdown tables with the medians of three rounds; each round runs all
candidates.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.base import write_busybox_layout
from tests.support.engine import Engine, docker_engine
from tests.support.process import free_port
from tests.support.registry import Registry, plain_registry
from tests.support.serving import minilm

from benchmarks.measure import Measured, measure, median

BIN = Path(sys.executable).parent
PIPES = 2
PIECE = 1024 * 1024
Candidates = dict[str, Callable[[], Measured]]


@dataclass(frozen=True, slots=True)
class Rig:
    """The servers of the benchmark, and a work directory."""

    hub: str
    registry: Registry
    engine: Engine
    work: Path
    environment: Mapping[str, str]

    def shell(self, script: str, *watched: str) -> Measured:
        """Measure a bash script; `watched` are the folders under `work` whose growth counts as disk use."""
        folders = [self.work / name for name in watched]
        # Not in the checkout: ferry would update its catalogue.
        return measure(
            ["bash", "-euo", "pipefail", "-c", f"cd {self.work}; {script}"], env=self.environment, watched=folders
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run with a twentieth of the size, one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scale, rounds = (20, 1) if options.quick else (1, options.rounds)
    size, count = 500_000_000 // scale, 5000 // scale
    with tempfile.TemporaryDirectory(prefix="llmstack-bench-") as folder:
        work = Path(folder)
        weights = minilm() / "model.safetensors"
        big = _write_files(work / "big", [f"model-{n}-of-4.safetensors" for n in range(1, 5)], size, weights)
        small = _write_files(work / "small", [f"part/{n:05d}.bin" for n in range(count)], 50_000, weights)
        few, many = f"4 files of {size // 10**6} MB", f"{count:,} files of 50 KB"
        with _rig(work, {"bench/big": big, "bench/small": small}) as rig:
            _compare(f"ferry: {few}", _ferry(rig, "bench/big", big), rounds)
            _compare(f"extract: {few}", _extract(rig, "bench/big", big), rounds)
            _compare(f"ferry: {many}", _ferry(rig, "bench/small", None), rounds)
            _compare(f"extract: {many}", _extract(rig, "bench/small", None), rounds)


def _write_files(folder: Path, names: list[str], size: int, weights: Path) -> Path:
    """Write files of `size` bytes; each continues in the weights where the previous one stopped."""
    with weights.open("rb") as source:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                left = size
                # In pieces: the peak memory of a child process starts with the memory of its parent at the fork.
                while left:
                    piece = source.read(min(PIECE, left))
                    file.write(piece)
                    left -= len(piece)
                    if not piece:
                        source.seek(0)
    return folder


@contextlib.contextmanager
def _rig(work: Path, repos: Mapping[str, Path]) -> Iterator[Rig]:
    hub = f"http://127.0.0.1:{(port := free_port())}"
    arguments = [f"--model={repo_id}={folder}" for repo_id, folder in repos.items()]
    serve = [sys.executable, "-m", "tests.support.hub", "--port", str(port), *arguments]
    with (
        _process(serve) as process,
        plain_registry(work / "registry") as registry,
        docker_engine(work / "engine", os.environ) as engine,
    ):
        if process.stdout is None or not process.stdout.readline():
            raise SystemExit("the loopback hub did not start")
        # If it is set, Python compiles llmstack at each start, unlike an installed one.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {
            **inherited,
            "DOCKER_HOST": engine.host,
            "HF_ENDPOINT": hub,
            "HF_HOME": str(work / "hf"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "TMPDIR": str(work / "tmp"),
        }
        (work / "tmp").mkdir()
        base = write_busybox_layout(work / "busybox")
        push = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]
        subprocess.run([*push, f"oci:{base}:latest", f"docker://{registry.host}/busybox:latest"], check=True)
        engine.docker("pull", f"{registry.host}/busybox")
        yield Rig(hub, registry, engine, work, environment)


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


def _ferry(rig: Rig, repo_id: str, files: Path | None) -> Candidates:
    """Return commands that carry a repo into the registry; each starts with an empty repository."""
    name = repo_id.rpartition("/")[2]
    host, base = rig.registry.host, f"{rig.registry.host}/busybox"
    download = f"hf download {repo_id} --local-dir {rig.work}/hand/REPO"
    dockerfile = f"printf 'FROM {base}\\nCOPY REPO /REPO\\n' > {rig.work}/hand/Dockerfile"

    def fresh(script: str, *watched: str) -> Callable[[], Measured]:
        def run() -> Measured:
            _forget(rig, f"hand/{name}", f"oras/{name}", f"pipe/{name}", "carried/models")
            for folder in ("hand", "hf"):
                shutil.rmtree(rig.work / folder, ignore_errors=True)
            return rig.shell(script, *watched)

        return run

    candidates = {
        "llmstack ferry": fresh(
            f"llmstack ferry {repo_id} --to {host}/carried --base {base} --quiet --force", "tmp", "hf"
        ),
        "hf download, docker build, docker push": fresh(
            f"{download} && {dockerfile} && docker build -q -t {host}/hand/{name} {rig.work}/hand"
            f" && docker push -q {host}/hand/{name}",
            *("hand", "hf", "tmp", "engine"),
        ),
    }
    if files:
        candidates["curl | curl, 2 in parallel"] = fresh(_pipes(rig, repo_id, files))
    if shutil.which("oras"):
        candidates["hf download, oras push"] = fresh(
            f"{download} && cd {rig.work}/hand/REPO && oras push --plain-http {host}/oras/{name}:v1 *",
            *("hand", "hf", "tmp"),
        )
    if shutil.which("crane"):
        candidates["hf download, crane append"] = fresh(
            f"{download} && tar -C {rig.work}/hand -cf - REPO"
            f" | crane append --insecure -b {base} -t {host}/hand/{name} -f -",
            *("hand", "hf", "tmp"),
        )
    return candidates


def _pipes(rig: Rig, repo_id: str, files: Path) -> str:
    """Return a script that only transfers the files, two in parallel, without layers, verification or image."""
    digests = {}
    for path in files.iterdir():
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    uploads = f"{rig.registry.url}/v2/pipe/{repo_id.rpartition('/')[2]}/blobs/uploads/"
    script = rig.work / "pipe.sh"
    script.write_text(
        "set -euo pipefail\n"
        "location() { tr -d '\\r' | sed -n 's/^[Ll]ocation: //p'; }\n"
        f"session=$(curl -sS -D- -o /dev/null -X POST {uploads} | location)\n"
        f'session=$(curl -sSL {rig.hub}/{repo_id}/resolve/main/$1 | curl -sS -D- -o /dev/null -X PATCH -T - "$session"'
        " | location)\n"
        'curl -sS -f -o /dev/null -X PUT -H "Content-Length: 0" "$session&digest=sha256:$2"\n'
    )
    words = " ".join(f"{name} {digest}" for name, digest in digests.items())
    return f"echo {words} | xargs -n2 -P{PIPES} bash {script}"


def _extract(rig: Rig, repo_id: str, files: Path | None) -> Candidates:
    """Return commands that extract the files from the registry into a folder."""
    name = repo_id.rpartition("/")[2]
    host = rig.registry.host
    carried = f"{host}/carried/models:{repo_id.replace('/', '--')}"
    rig.shell(f"llmstack ferry {repo_id} --to {host}/carried --base {host}/busybox --quiet")
    out = rig.work / "out"

    def fresh(script: str, *watched: str) -> Callable[[], Measured]:
        def run() -> Measured:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            rig.engine.docker("image", "rm", "--force", carried, f"{host}/hand/{name}", check=False)
            return rig.shell(script, *watched)

        return run

    candidates = {
        "llmstack extract": fresh(f"llmstack extract docker://{carried} {out}/x --quiet", "tmp"),
        "docker pull, docker create, docker cp": fresh(
            f"docker pull -q {carried} && id=$(docker create {carried} sh) && docker cp $id:/REPO {out}/x"
            " && docker rm $id",
            *("tmp", "engine"),
        ),
    }
    if files:
        blobs = " ".join(f"{path} {digest}" for path, digest in layers_of(carried).items())
        url = f"{rig.registry.url}/v2/carried/models/blobs"
        for title, write in {
            "curl | cat > file, 2 in parallel": f"{url}/$1 | cat > {out}/$0",
            "curl -o file, 2 in parallel": f"-o {out}/$0 {url}/$1",
            "curl | tee file | sha256sum, 2 in parallel": f"{url}/$1 | tee {out}/$0 | sha256sum",
        }.items():
            candidates[title] = fresh(f"echo {blobs} | xargs -n2 -P{PIPES} bash -c 'curl -sS -f {write}'")
    if shutil.which("oras"):
        rig.shell(f"cd {rig.work}/{name} && oras push --plain-http {host}/oras/{name}:v1 *")
        candidates["oras pull"] = fresh(f"oras pull --plain-http --output {out}/x {host}/oras/{name}:v1", "tmp")
    return candidates


def layers_of(image: str) -> dict[str, str]:
    """Return the digests of an image's single-file layers by the path of the file."""

    def manifest(name: str) -> dict[str, Any]:
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", name], check=True, capture_output=True
        )
        found: dict[str, Any] = json.loads(raw.stdout)
        return found

    first = manifest(f"docker://{image}")["manifests"][0]["digest"]
    layers = manifest(f"docker://{image.rpartition(':')[0]}@{first}")["layers"]
    notes = [(layer.get("annotations", {}), layer["digest"]) for layer in layers]
    return {note["org.cncf.model.filepath"]: digest for note, digest in notes if "org.cncf.model.filepath" in note}


def _forget(rig: Rig, *repositories: str) -> None:
    """Delete repositories from the registry, including their blobs, so that every candidate uploads everything."""
    for name in repositories:
        shutil.rmtree(rig.registry.root / "docker/registry/v2/repositories" / name, ignore_errors=True)


def _compare(title: str, candidates: Candidates, rounds: int) -> None:
    runs: dict[str, list[Measured]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            runs[name].append(run())
    ours = median(runs[next(iter(runs))])
    print(f"\n### {title}\n\n| | time | compared | peak memory | extra disk |\n|---|---:|---:|---:|---:|")
    for name, results in runs.items():
        found = median(results)
        print(
            f"| {name} | {found.seconds:.1f} s | {found.seconds / ours.seconds:.2f} |"
            f" {found.memory / 1e6:.0f} MB | {found.disk / 1e6:,.0f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
