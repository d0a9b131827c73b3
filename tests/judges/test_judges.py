"""Current container tools read carried images, and llmstack reads their copies."""

from __future__ import annotations

import hashlib
import json
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.judges.conftest import FILES, TOOL, Judge
from tests.support.cli import run_llmstack
from tests.support.ferry import Port
from tests.support.process import Daemon, free_port

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]

TAG = "org--tiny"
COPIES = {
    "skopeo": ("skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"),
    "crane": ("crane", "copy", "--insecure"),
    "oras": ("oras", "copy", "-r", "--from-plain-http", "--to-plain-http"),
}


def read_back(image: str, folder: Path, *source: str) -> None:
    done = run_llmstack("extract", image, folder, *source, "--json")
    assert done.code == 0, done.stderr
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == FILES


def listed(namespace: str) -> list[dict[str, object]]:
    done = run_llmstack("list", "--from", namespace, "--json")
    assert done.code == 0, done.stderr
    rows: list[dict[str, object]] = done.json
    return rows


def check_copy(port: Port, image: str, folder: Path) -> None:
    """A copy of any kind is listed with its repo, commit and license, and gives the same files."""
    namespace, _, _ = image.rpartition("/models:")
    [original], rows = listed(port.space), listed(namespace)
    names = ("repo_id", "repo_type", "revision", "commit", "license")
    assert [{name: row[name] for name in names} for row in rows] == [{name: original[name] for name in names}]
    read_back(image, folder / "copy")
    read_back("org/tiny", folder / "by-id", "--from", namespace)
    done = run_llmstack("verify", image, "--json")
    assert (done.code, done.json["ok"]) == (0, True), done.stderr


@pytest.mark.parametrize("tool", COPIES)
def test_registry_copies_keep_the_digest(judge: Judge, port: Port, carried: str, shared: Path, tool: str):
    copy = f"{port.registry.namespace()}/models:{TAG}"
    prefix = "docker://" if tool == "skopeo" else ""
    judge.run(*COPIES[tool], prefix + carried, prefix + copy)
    digests = [judge.run("crane", "digest", "--insecure", image) for image in (carried, copy)]
    assert digests[0] == digests[1]
    check_copy(port, copy, shared)


def test_skopeo_may_compress_what_it_copies(judge: Judge, port: Port, carried: str, shared: Path):
    copy = f"{port.registry.namespace()}/models:{TAG}"
    options = ("--src-tls-verify=false", "--dest-tls-verify=false", "--dest-compress", "--dest-compress-format=zstd")
    judge.run("skopeo", "copy", *options, f"docker://{carried}", f"docker://{copy}")
    check_copy(port, copy, shared)


def test_docker_pulls_runs_copies_mounts_saves_and_pushes(docker: Judge, port: Port, carried: str, shared: Path):
    docker.run("docker", "pull", "-q", carried)
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    in_image = docker.run("docker", "run", "--rm", "--network=none", carried, "sha256sum", "/REPO/model.safetensors")
    assert in_image.split()[0] == digest
    mount = f"type=image,source={carried},target=/model,image-subpath=REPO"
    mounted = docker.run(
        *("docker", "run", "--rm", "--network=none", "--mount", mount, carried),
        *("sha256sum", "/model/model.safetensors"),
    )
    assert mounted.split()[0] == digest
    container = docker.run("docker", "create", "--network=none", carried).strip()
    docker.run("docker", "cp", f"{container}:/REPO", shared / "cp")
    copied = {str(path.relative_to(shared / "cp")): path.read_bytes() for path in (shared / "cp").rglob("*.*")}
    assert {name: data for name, data in copied.items() if name in FILES} == FILES
    docker.run("docker", "rm", container)

    docker.run("docker", "save", "-o", shared / "saved.tar", carried)
    read_back(f"docker-archive:{shared}/saved.tar", shared / "saved")
    host = docker.environment["DOCKER_HOST"]
    done = run_llmstack("extract", f"docker-daemon:{carried}", shared / "engine", env={"DOCKER_HOST": host})
    assert done.code == 0, done.stderr
    pushed = f"{port.registry.namespace()}/models:{TAG}"
    docker.run("docker", "tag", carried, pushed)
    docker.run("docker", "push", "-q", pushed)
    check_copy(port, pushed, shared)


def test_podman_and_buildah_pull_run_save_and_push(judge: Judge, port: Port, carried: str, shared: Path):
    podman = ("podman", f"--root={shared}/storage", f"--runroot={shared}/run", "--storage-driver=vfs")
    judge.run(*podman, "pull", "-q", "--tls-verify=false", carried)
    run = (*podman, "--runtime=runc", "--cgroup-manager=cgroupfs", "run", "--rm", "--network=none")
    digest = judge.run(*run, carried, "sha256sum", "/REPO/model.safetensors").split()[0]
    assert digest == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    for form in ("docker-archive", "oci-archive"):
        judge.run(*podman, "save", "-q", f"--format={form}", "-o", shared / f"{form}.tar", carried)
        read_back(f"{form}:{shared}/{form}.tar", shared / form)
    pushed = f"{port.registry.namespace()}/models:{TAG}"
    judge.run(*podman, "push", "-q", "--tls-verify=false", carried, pushed)
    check_copy(port, pushed, shared)

    buildah = ("buildah", f"--root={shared}/storage", f"--runroot={shared}/run", "--storage-driver=vfs")
    container = judge.run(*buildah, "from", "--pull-never", carried).strip()
    mounted = Path(judge.run(*buildah, "mount", container).strip())
    assert {name: (mounted / "REPO" / name).read_bytes() for name in FILES} == FILES


def test_umoci_unpacks_a_layout(judge: Judge, carried: str, shared: Path):
    copy = ("skopeo", "copy", "--src-tls-verify=false", "--preserve-digests")
    judge.run(*copy, f"docker://{carried}", f"oci:{shared}/oci:{TAG}")
    judge.run("umoci", "unpack", "--image", f"{shared}/oci:{TAG}", shared / "bundle")
    assert {name: (shared / "bundle/rootfs/REPO" / name).read_bytes() for name in FILES} == FILES
    read_back("org/tiny", shared / "out", "--from", f"oci:{shared}/oci")


def test_crane_exports_the_files(judge: Judge, carried: str, shared: Path):
    """The hard links in REPO need the files in models: tar cannot extract REPO alone."""
    judge.run("crane", "export", "--insecure", carried, shared / "export.tar")
    for roots in (["models"], ["models", "REPO"]):
        folder = shared / roots[-1]
        folder.mkdir()
        subprocess.run(["tar", "-xf", shared / "export.tar", "-C", folder, *roots], check=True)
        for root in roots:
            assert {name: (folder / root / name).read_bytes() for name in FILES} == FILES


def test_signatures_and_attachments_are_no_carried_images(judge: Judge, port: Port, carried: str, shared: Path):
    cosign = Judge({"COSIGN_PASSWORD": "", "COSIGN_YES": "true"})
    cosign.run("cosign", "generate-key-pair", "--output-key-prefix", shared / "key")
    digest = judge.run("crane", "digest", "--insecure", carried).strip()
    image = f"{carried.rpartition(':')[0]}@{digest}"
    sign = ("cosign", "sign", "--key", shared / "key.key", "--allow-http-registry", "--allow-insecure-registry")
    config = shared / "signing.json"
    config.write_text(json.dumps({"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}))
    cosign.run(*sign, f"--signing-config={config}", image)
    verify = ("cosign", "verify", "--key", shared / "key.pub", "--allow-http-registry", "--insecure-ignore-tlog=true")
    cosign.run(*verify, image)
    (shared / "note.txt").write_text("checked")
    attach = ("oras", "attach", "--plain-http", "--disable-path-validation", "--artifact-type", "text/note")
    judge.run(*attach, image, f"{shared}/note.txt:text/plain")
    tags = judge.run("crane", "ls", "--insecure", carried.rpartition(":")[0]).split()
    assert len(tags) > 1
    assert [row["repo_id"] for row in listed(port.space)] == ["org/tiny"]
    read_back("org/tiny", shared / "out", "--from", port.space)


def test_an_oras_artifact_is_named_as_one(judge: Judge, port: Port, shared: Path):
    (shared / "data.bin").write_bytes(b"data")
    artifact = f"{port.space}/models:artifact"
    push = ("oras", "push", "--plain-http", "--disable-path-validation", "--artifact-type", "application/vnd.test")
    judge.run(*push, artifact, f"{shared}/data.bin:application/octet-stream")
    done = run_llmstack("extract", artifact, shared / "out")
    assert done.code != 0
    assert "artifact" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_layer_on_top_ends_the_claim_of_the_commit(judge: Judge, port: Port, carried: str, shared: Path):
    (shared / "REPO").mkdir()
    (shared / "REPO/config.json").write_bytes(b'{"changed": true}')
    subprocess.run(["tar", "-cf", shared / "changed.tar", "-C", shared, "REPO"], check=True)
    changed = f"{port.registry.namespace()}/models:{TAG}"
    append = ("crane", "append", "--insecure", "--platform=linux/amd64", "-b", carried)
    judge.run(*append, "-f", shared / "changed.tar", "-t", changed)
    done = run_llmstack("extract", changed, shared / "out", "--json")
    assert done.code == 0, done.stderr
    assert done.json["commit"] is None
    assert (shared / "out/config.json").read_bytes() == b'{"changed": true}'
    [row] = listed(changed.rpartition("/models:")[0])
    assert row["commit"] is None


def registry_answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/") as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.mark.usefixtures("judge")
def test_crane_registry_keeps_no_partial_image(port: Port, shared: Path):
    address = f"127.0.0.1:{free_port()}"
    command = [str(TOOL), "run", "crane", "registry", "serve", "--address", address]
    server = Daemon(command, shared / "registry.log")
    try:
        server.wait_until(lambda: registry_answers(address))
        port.hub.add_repo("org/tiny", FILES, license="mit")
        done = port.ferry("org/tiny", "--to", f"{address}/llm", "--json")
        assert done.code == 0, done.stderr
        [row] = listed(f"{address}/llm")
        assert (row["repo_id"], row["incomplete"]) == ("org/tiny", False)
        read_back("org/tiny", shared / "out", "--from", f"{address}/llm")
    finally:
        server.stop()
