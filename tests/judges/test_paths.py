"""Where the files of a model are: under /models and /REPO, in every tool, for every user, stored once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.judges.conftest import FILES, TOOL, Judge
from tests.support.carried import write_large
from tests.support.cli import run_llmstack
from tests.support.ferry import Port
from tests.support.process import Daemon
from tests.support.serving import install

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]

GiB = 1024**3
ROOTS = ("models", "REPO")
NESTED = "deep/ly/nested/file.bin"
KSERVE = ("kserve-storage==0.21.0", "oras==0.2.43")
FETCH = "import sys; from kserve_storage import Storage; Storage._download_oci(*sys.argv[1:])"


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the regular files of a directory."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def check_root(rootfs: Path) -> None:
    """Check a root file system: all files in both places, each stored once, in directories that all can enter."""
    for root in ROOTS:
        assert files_of(rootfs / root) == FILES
        directories = (rootfs / root, *(path for path in (rootfs / root).rglob("*") if path.is_dir()))
        assert {path.stat().st_mode & 0o777 for path in directories} == {0o755}
    assert all((rootfs / "models" / name).samefile(rootfs / "REPO" / name) for name in FILES)


def test_docker_runs_mounts_and_copies_both(docker: Judge, carried: str, shared: Path):
    docker.run("docker", "pull", "-q", carried)
    run = ("docker", "run", "--rm", "--network=none", "--user=1000")
    # What KServe's modelcar does.
    link = "ln -sf /proc/$$/root/models /tmp/ && cmp /tmp/models/README.md /REPO/README.md"
    docker.run(*run, carried, "sh", "-c", f"{link} && cmp /models/{NESTED} /REPO/{NESTED}")
    sizes = docker.run(*run, carried, "du", "-sk", "/models", "/REPO").split()
    assert int(sizes[0]) >= 19_000
    assert int(sizes[2]) < 100
    for root in ROOTS:
        mount = f"type=image,source={carried},target=/mnt/m,image-subpath={root}"
        listed = docker.run(*run, "--mount", mount, carried, "sh", "-c", "cd /mnt/m && find . -type f").split()
        assert sorted(listed) == sorted(f"./{name}" for name in FILES)
        container = docker.run("docker", "create", "--network=none", carried).strip()
        docker.run("docker", "cp", f"{container}:/{root}", shared / root)
        docker.run("docker", "rm", container)
        assert files_of(shared / root) == FILES


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_builds_copy_from_both(docker: Judge, carried: str, shared: Path, buildkit: str):
    docker.run("docker", "pull", "-q", carried)
    (shared / "context").mkdir()
    (shared / "context/Dockerfile").write_text(
        "FROM scratch\n" + "".join(f"COPY --from={carried} /{root} /copy/{root}\n" for root in ROOTS)
    )
    builder = replace(docker, environment={**docker.environment, "DOCKER_BUILDKIT": buildkit})
    builder.run("docker", "build", "-q", "-t", "copied", shared / "context")
    container = docker.run("docker", "create", "--network=none", "copied", "x").strip()
    docker.run("docker", "cp", f"{container}:/copy", shared / "copy")
    docker.run("docker", "rm", container)
    assert {root: files_of(shared / "copy" / root) for root in ROOTS} == dict.fromkeys(ROOTS, FILES)


def test_podman_runs_and_mounts_both_and_buildah_copies_from_both(judge: Judge, carried: str, shared: Path):
    storage = (f"--root={shared}/storage", f"--runroot={shared}/run", "--storage-driver=vfs")
    podman = ("podman", *storage, "--runtime=runc", "--cgroup-manager=cgroupfs")
    judge.run(*podman, "pull", "-q", "--tls-verify=false", carried)
    run = (*podman, "run", "--rm", "--network=none", "--user=1000")
    judge.run(*run, carried, "cmp", f"/models/{NESTED}", f"/REPO/{NESTED}")
    for root in ROOTS:
        mount = f"type=image,source={carried},destination=/mnt,subpath=/{root}"
        judge.run(*run, "--mount", mount, carried, "cmp", f"/mnt/{NESTED}", f"/REPO/{NESTED}")
    buildah = ("buildah", *storage)
    container = judge.run(*buildah, "from", "--pull-never", carried).strip()
    check_root(Path(judge.run(*buildah, "mount", container).strip()))
    (shared / "Dockerfile").write_text(
        "FROM scratch\n" + "".join(f"COPY --from={carried} /{root} /copy/{root}\n" for root in ROOTS)
    )
    build = (*buildah, "build", "--isolation=chroot", "--pull-never", "-t", "copied", "-f", shared / "Dockerfile")
    judge.run(*build, shared / "run")
    container = judge.run(*buildah, "from", "--pull-never", "localhost/copied").strip()
    copied = Path(judge.run(*buildah, "mount", container).strip())
    assert {root: files_of(copied / "copy" / root) for root in ROOTS} == dict.fromkeys(ROOTS, FILES)


@pytest.fixture
def containerd(judge: Judge, shared: Path) -> Iterator[Path]:
    """The socket of a current containerd."""
    folder = shared / "containerd"
    folder.mkdir()
    (folder / "config.toml").write_text("version = 2\n")
    places = (f"--address={folder}/socket", f"--root={folder}/root", f"--state={folder}/state")
    daemon = Daemon([str(TOOL), "run", "containerd", f"--config={folder}/config.toml", *places], folder / "log")
    try:
        daemon.wait_until(lambda: "Server" in judge.run("ctr", f"--address={folder}/socket", "version", check=False))
        yield folder / "socket"
    finally:
        daemon.stop()


def test_containerd_mounts_both_and_estargz_keeps_both(judge: Judge, containerd: Path, carried: str, shared: Path):
    ctr = ("ctr", f"--address={containerd}")
    judge.run(*ctr, "images", "pull", "--plain-http", "--platform=linux/amd64", carried)
    converted = f"{carried}-esgz"
    convert = ("images", "convert", "--estargz", "--oci", "--platform=linux/amd64", carried, converted)
    judge.run("ctr-remote", f"--address={containerd}", *convert)
    judge.run(*ctr, "images", "unpack", "--platform=linux/amd64", converted, check=False)
    for name in (carried, converted):
        target = shared / name.rpartition(":")[2]
        target.mkdir()
        # The mount is in the mount namespace of this one command, so what it sees is copied.
        script = f"{' '.join(ctr)} images mount --platform=linux/amd64 {name} {target} && cp -a {target} {target}-copy"
        judge.run("sh", "-ec", script)
        check_root(Path(f"{target}-copy"))
    judge.run(*ctr, "images", "push", "--plain-http", "--platform=linux/amd64", converted)
    done = run_llmstack("extract", converted, shared / "extracted", "--json")
    assert done.code == 0, done.stderr
    assert files_of(shared / "extracted") == FILES


def test_copies_of_skopeo_and_crane_unpack_to_both(judge: Judge, carried: str, shared: Path):
    judge.run("skopeo", "copy", "--src-tls-verify=false", f"docker://{carried}", f"oci:{shared}/oci:x")
    judge.run("umoci", "unpack", "--image", f"{shared}/oci:x", shared / "bundle")
    check_root(shared / "bundle/rootfs")
    judge.run("crane", "export", "--insecure", carried, shared / "export.tar")
    for tar in ("tar", "bsdtar"):
        (shared / tar).mkdir()
        judge.run(tar, "-xf", shared / "export.tar", "-C", shared / tar)
        check_root(shared / tar)


@pytest.mark.parametrize("size", [8 * GiB, 70 * GiB])
def test_bsdtar_lists_what_follows_a_file_beyond_8_gib(judge: Judge, shared: Path, size: int):
    write_large(shared / "large.tar", size, {"models/after": b"abc"})
    entries = [line.split() for line in judge.run("bsdtar", "-tvf", shared / "large.tar").splitlines()]
    assert [(entry[4], entry[8]) for entry in entries][::2] == [(str(size), "models/large"), ("3", "models/after")]


@pytest.mark.parametrize("compressed", [False, True])
def test_kserve_fetches_the_model_layer_by_layer(
    judge: Judge, port: Port, carried: str, shared: Path, compressed: bool
):
    if compressed:
        copy = f"{port.registry.namespace()}/models:gzip"
        options = ("--all", "--src-tls-verify=false", "--dest-tls-verify=false", "--dest-compress")
        judge.run("skopeo", "copy", *options, f"docker://{carried}", f"docker://{copy}")
        carried = copy
    environment = {**os.environ, "PYTHONPATH": str(install("kserve-storage", *KSERVE))}
    environment["KSERVE_OCI_INSECURE_REGISTRY"] = "true"
    command = [sys.executable, "-c", FETCH, f"oci://{carried}", str(shared / "model")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files_of(shared / "model") == FILES
    shutil.rmtree(shared / "model")
