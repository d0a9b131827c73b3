"""`llmstack build` with docker buildx, on both image stores: what it adds, and that both builders make equal images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.image_builds.test_wheel_index import write_wheel
from tests.judges.conftest import TOOL, Judge
from tests.support.cli import Run, run_llmstack
from tests.support.ferry import skopeo
from tests.support.registry import Registry

pytestmark = [pytest.mark.judges, pytest.mark.xdist_group("judges")]
BASE = "llmstack-test-busybox:latest"
NETWORK = {"LLMSTACK_BUILD_NETWORK": "none"}
ONE = f"description: A test\nvariants:\n  cpu:\n    base: {BASE}\n"


@dataclass(frozen=True)
class Site:
    """A Docker Engine with the command docker in PATH, and a directory with llmstack.yaml and recipes."""

    docker: Judge
    folder: Path
    environment: dict[str, str]

    def recipe(self, name: str, template: str, yaml: str = ONE) -> None:
        folder = self.folder / "recipes" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "image.yaml").write_text(yaml)
        imported = '{% import "_shared/macros.j2" as steps with context %}\n'
        (folder / "Dockerfile.j2").write_text(imported + template)

    def build(self, *arguments: str | Path, **settings: str) -> Run:
        variables = {f"LLMSTACK_{name.upper()}": value for name, value in settings.items()}
        return run_llmstack("build", *arguments, env={**self.environment, **NETWORK, **variables}, cwd=self.folder)

    def built(self, *arguments: str | Path, **settings: str) -> dict[str, Any]:
        done = self.build(*arguments, "--json", **settings)
        assert done.code == 0, done.stderr
        [result] = done.json
        return dict(result)

    def inspect(self, image: str) -> dict[str, Any]:
        [found] = json.loads(self.docker.run("docker", "image", "inspect", image))
        return dict(found)

    def run(self, image: str, *command: str) -> str:
        return self.docker.run("docker", "run", "--rm", "--network=none", image, *command)


@pytest.fixture
def site(docker: Judge, busybox_base: Path, shared: Path) -> Site:
    """llmstack's command docker is the one of the sid root, which has buildx."""
    archive = shared / "busybox.tar"
    skopeo("copy", "--quiet", f"oci:{busybox_base}:latest", f"docker-archive:{archive}:{BASE}")
    docker.run("docker", "load", "--quiet", "--input", archive)
    (shared / "bin").mkdir()
    (shared / "bin" / "docker").write_text(f'#!/bin/sh\nexec {TOOL} run /usr/bin/docker "$@"\n')
    (shared / "bin" / "docker").chmod(0o755)
    (shared / "home").mkdir()
    (shared / "recipes").mkdir()
    (shared / "llmstack.yaml").write_text("recipes: [recipes]\n")
    environment = {
        "DOCKER_HOST": docker.environment["DOCKER_HOST"],
        "HOME": str(shared / "home"),
        "TMPDIR": str(shared),
        "PATH": f"{shared}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
    }
    site = Site(docker, shared, environment)
    # The setting `recipes` needs at least one recipe.
    site.recipe("small", "FROM {{ base }}\n")
    return site


BOTH = """\
FROM {{ base }} AS first
{{ steps.build_environment() }}
RUN echo one > /one
FROM {{ base }}
{{ steps.build_environment() }}
RUN {{ steps.pip_mounts() }}mkdir /made && echo two > /made/two
COPY --from=first /one /made/one
COPY tool.sh /made/tool
{{ steps.remove_build_environment() }}
ENV KEY="a b"
USER 12:34
CMD ["/made/tool"]
{{ steps.finish() }}
"""


def contents(image: dict[str, Any], site: Site) -> dict[str, tuple[str, int, int]]:
    """Return the hash, mode and owner of the files of an image that its base does not have."""
    container = site.docker.run("docker", "create", "--network=none", image["Id"]).strip()
    site.docker.run("docker", "export", "--output", site.folder / "rootfs.tar", container)
    site.docker.run("docker", "rm", container)
    found = {}
    with tarfile.open(site.folder / "rootfs.tar") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else io.BytesIO()
            digest = hashlib.sha256(content.read() if content else b"").hexdigest()
            found[member.name] = (digest, member.mode, member.uid)
    return found


def test_both_builders_make_the_same_image(site: Site):
    site.recipe("both", BOTH, ONE.replace("variants", "ports: [80]\nfiles: [tool.sh]\nvariants"))
    (site.folder / "recipes/both/tool.sh").write_text("#!/bin/sh\necho used\n")
    settings = {"pip_index": "https://pip.site/simple"}
    classic = site.built("both", "--builder", "classic", **settings)
    image = site.inspect("both:cpu")
    files = contents(image, site)
    other = site.built("both", "--builder", "buildx", **settings)
    again = site.inspect("both:cpu")
    assert other["builder"].startswith("docker buildx 0.")
    assert classic["builder"] == "Docker's classic builder"
    assert image["Id"] != again["Id"]
    assert contents(again, site) == files
    names = ("Env", "User", "Cmd", "Labels", "ExposedPorts", "Entrypoint", "Healthcheck", "WorkingDir")
    configs = [{name: each["Config"].get(name) or None for name in names} for each in (image, again)]
    assert configs[0] == configs[1]
    assert site.run("both:cpu") == "used\n"


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("FROM {{ base }}\nRUN for i in $(seq 1 50); do echo line $i; done; echo why >&2; exit 7\n", 1),
        ("FROM {{ base }}\n\n{{ steps.venv() }}\n", 1),
        ("FROM 127.0.0.1:1/no/such:image\n", 6),
    ],
)
def test_both_builders_report_a_failure_equally(site: Site, template: str, code: int):
    site.recipe("one", template)
    classic, other = (site.build("one", "--builder", name) for name in ("classic", "buildx"))
    assert (classic.code, other.code) == (code, code), other.stderr
    errors = [run.stderr[run.stderr.index("error: ") :].splitlines() for run in (classic, other)]
    # BuildKit does not count instructions that only change the configuration.
    for error in errors:
        error[0] = re.sub(r"step \d+/\d+ ", "step ", error[0])
    if code == 1:
        assert errors[0] == errors[1]
    assert "recipes/one/Dockerfile.j2, line " in errors[1][0] or "_shared/macros.j2, line " in errors[1][0]


def test_auto_takes_buildx_and_says_so(site: Site):
    site.recipe("one", 'FROM {{ base }}\nRUN true && echo noise\nCMD ["sh"]\n')
    done = site.build("one")
    assert done.code == 0, done.stderr
    assert "building with docker buildx 0." in done.stderr
    assert "one:cpu [2/2] RUN true && echo noise\n" in done.stderr
    first = site.inspect("one:cpu")["Id"]
    assert "one:cpu [2/2] cached\n" in site.build("one").stderr
    assert site.inspect("one:cpu")["Id"] == first
    done = site.build("one", http_proxy="http://user:hush@127.0.0.1:9")
    assert "building with Docker's classic builder\n" in done.stderr
    refused = site.build("one", "--builder", "buildx", http_proxy="http://user:hush@127.0.0.1:9")
    assert refused.code == 2
    assert "http_proxy: contains a password, which buildx would store" in refused.stderr
    assert "hush" not in refused.stderr + done.stderr


def test_child_builds_on_its_parent_in_the_engine(site: Site):
    site.recipe("parent", "FROM {{ base }}\nRUN echo one > /one\n")
    child = "description: x\nparent: parent\nvariants: {cpu: {}}\n"
    site.recipe("child", "FROM {{ base }}\nRUN cat /one > /two\n", child)
    site.built("child", "--builder", "buildx")
    assert site.run("child:cpu", "cat", "/two") == "one\n"


def test_cache_mount_survives_a_failed_step_and_is_not_in_the_image(site: Site):
    site.recipe(
        "one",
        "FROM {{ base }}\nRUN {{ steps.pip_mounts() }}{{ steps.apt_mounts() }}"
        "ls /root/.cache/pip/got /var/cache/llmstack-apt/got > /found"
        " || { touch /root/.cache/pip/got /var/cache/llmstack-apt/got; exit 1; }\n",
    )
    assert site.build("one", "--builder", "buildx").code == 1
    assert site.build("one", "--builder", "buildx").code == 0
    assert site.run("one:cpu", "cat", "/found") == "/root/.cache/pip/got\n/var/cache/llmstack-apt/got\n"
    assert site.run("one:cpu", "sh", "-c", "ls -d /root/.cache /var/cache/llmstack-apt || true") == ""


def test_secrets_are_in_no_layer_history_or_process_list(site: Site):
    secret = "t0p-secret"
    for name in ("pip.conf", "netrc"):
        (site.folder / name).write_text(f"{secret}\n")
    (site.folder / "llmstack.yaml").write_text("recipes: [recipes]\npip_config: pip.conf\nnetrc: netrc\n")
    site.recipe(
        "one",
        "FROM {{ base }}\nRUN {{ steps.pip_mounts() }}"
        "cat /root/.config/pip/pip.conf /root/.netrc | tr -d - | grep -c t0psecret > /read && sleep 2\n",
    )
    command = [sys.executable, "-m", "llmstack", "build", "one"]
    environment = {**os.environ, **site.environment, **NETWORK}
    with subprocess.Popen(command, cwd=site.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        shown = ""
        for line in process.stderr or ():
            shown += line
            if "] RUN" in line:
                shown += subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert process.returncode == 0, shown
    assert "--secret=id=netrc" in shown
    image = site.inspect("one:cpu")
    assert site.run("one:cpu", "cat", "/read") == "2\n"
    site.docker.run("docker", "save", "--output", site.folder / "saved.tar", "one:cpu")
    history = site.docker.run("docker", "history", "--no-trunc", "one:cpu")
    records = site.docker.run("docker", "buildx", "history", "inspect", check=False)
    assert secret not in shown + json.dumps(image) + history + records
    assert secret.encode() not in (site.folder / "saved.tar").read_bytes()
    assert not [name for name in contents(image, site) if name.startswith(("root/.config", "root/.netrc"))]
    refused = site.build("one", "--builder", "classic")
    assert refused.code == 2
    assert "pip_config and netrc: the classic builder cannot do that" in refused.stderr


def wait_for(state: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not state():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes(pattern: str) -> list[str]:
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout.split()


def test_interrupted_build_ends_everywhere(site: Site):
    site.recipe("one", "FROM {{ base }}\nRUN sleep 7613\n")
    command = [sys.executable, "-m", "llmstack", "build", "one", "--builder", "buildx", "--progress", "plain"]
    environment = {**os.environ, **site.environment, **NETWORK}
    with subprocess.Popen(command, cwd=site.folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: bool(processes("sleep 7613$")))
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "interrupted" in shown
    wait_for(lambda: not processes("sleep 7613$"))
    assert processes(f"buildx build.*{site.folder}") == []


def test_index_of_two_platforms_with_attestations(
    site: Site, registry: Registry, busybox_base: Path, request: pytest.FixtureRequest
):
    namespace = registry.namespace()
    base = f"{namespace}/base:latest"
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{busybox_base}:latest", f"docker://{base}")
    (site.folder / "requirements.txt").write_text(f"{write_wheel(site.folder, 'thing', '1.0')}\n")
    arguments = ["pip-offline", "--base", base, "--requirements", "requirements.txt", "--push"]
    options = ["--platform", "linux/amd64,linux/arm64", "--attest", "provenance"]
    done = site.build(*arguments, *options, "--json", namespace=namespace)
    if request.node.callspec.params["docker"] == "classic":
        assert done.code == 1
        assert "docker buildx create --use" in done.stderr
        return
    assert done.code == 0, done.stderr
    [result] = done.json
    name = f"{namespace}/pip-offline:latest"
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert result["pushed"][name] == f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
    manifests = json.loads(raw)["manifests"]
    platforms = [f"{each['platform']['os']}/{each['platform']['architecture']}" for each in manifests]
    assert sorted(platforms) == ["linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"]
    repository = name.rpartition(":")[0]
    kinds = set()
    for each in manifests:
        if each["platform"]["os"] == "unknown":
            layers = json.loads(
                skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{repository}@{each['digest']}")
            )["layers"]
            kinds |= {layer["annotations"]["in-toto.io/predicate-type"] for layer in layers}
    assert kinds == {"https://slsa.dev/provenance/v0.2"}
    # BuildKit runs the generator in the bridge network, which this engine does not have: only its start is visible.
    scanned = site.build(*arguments, "--attest", f"sbom={base}", namespace=namespace)
    assert f"generating sbom using {base}" in scanned.stderr


def test_undeclared_platform_is_refused(site: Site):
    site.recipe("one", "FROM {{ base }}\n")
    done = site.build("one", "--platform", "linux/amd64,linux/arm64", "--push", namespace="127.0.0.1:1/x")
    assert done.code == 2
    assert "one:cpu: does not support linux/arm64" in done.stderr


def by_buildx(site: Site, context: Path) -> str:
    site.docker.run("docker", "buildx", "build", "--network=none", "--load", "--tag", "exported:1", context)
    return site.run("exported:1", "busybox", "cat", "/srv/index/simple/index.html")


def by_buildah(site: Site, context: Path) -> str:
    storage = (f"--root={site.folder}/storage", f"--runroot={site.folder}/run", "--storage-driver=vfs")
    isolation = ("--isolation=chroot", "--network=host")
    site.docker.run("buildah", *storage, "build", *isolation, "--tls-verify=false", "--tag", "exported:1", context)
    container = site.docker.run("buildah", *storage, "from", "--pull-never", "exported:1").strip()
    mounted = Path(site.docker.run("buildah", *storage, "mount", container).strip())
    return (mounted / "srv/index/simple/index.html").read_text()


def by_podman(site: Site, context: Path) -> str:
    podman = ("podman", f"--root={site.folder}/storage", f"--runroot={site.folder}/run", "--storage-driver=vfs")
    common = ("--runtime=runc", "--cgroup-manager=cgroupfs")
    options = ("--isolation=chroot", "--network=host", "--tls-verify=false")
    site.docker.run(*podman, *common, "build", *options, "--tag", "exported:1", context)
    page = ("busybox", "cat", "/srv/index/simple/index.html")
    return site.docker.run(*podman, *common, "run", "--rm", "--network=none", "exported:1", *page)


@pytest.mark.parametrize("build", [by_buildx, by_buildah, by_podman])
def test_other_builders_build_an_exported_context(
    site: Site, registry: Registry, busybox_base: Path, build: Callable[[Site, Path], str]
):
    base = f"{registry.namespace()}/base:latest"
    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{busybox_base}:latest", f"docker://{base}")
    (site.folder / "requirements.txt").write_text(f"{write_wheel(site.folder, 'thing', '1.0')}\n")
    arguments = ["pip-offline", "--base", base, "--requirements", "requirements.txt"]
    assert site.build(*arguments, "--export-context", "context").code == 0
    assert '<a href="thing/">thing</a>' in build(site, site.folder / "context")


@pytest.mark.parametrize("docker", ["classic"], indirect=True)
@pytest.mark.parametrize("name", ["hf", "hf-dev", "hub", "llama.cpp", "llm-factory", "lmql", "vllm"])
def test_buildkit_accepts_an_exported_recipe(site: Site, name: str):
    """`docker buildx build --check` reads a Dockerfile with BuildKit's own parser and linter, and runs no step."""
    for builder in ("classic", "buildx"):
        context = site.folder / builder
        done = site.build(name, "--variant", "cpu", "--builder", builder, "--export-context", context)
        assert done.code == 0, done.stderr
        dockerfile = (context / "Dockerfile").read_text()
        for base in {line.split()[1] for line in dockerfile.splitlines() if line.startswith("FROM ")}:
            dockerfile = re.sub(rf"^FROM {re.escape(base)}$", f"FROM {BASE}", dockerfile, flags=re.MULTILINE)
            dockerfile = dockerfile.replace(f"FROM {base} AS", f"FROM {BASE} AS")
        (context / "Dockerfile").write_text(dockerfile)
        site.docker.run("docker", "buildx", "build", "--check", context)
