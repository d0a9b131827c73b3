"""The images workflow, run step by step against a Docker Engine, a registry with authentication, and a git remote."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, own_engine
from tests.support.process import need
from tests.support.registry import Registry
from tests.workflows.actions import Job, Machine, job, load
from tests.workflows.fork import Fork

DATED = re.compile("-[0-9]{8}-[0-9]{6}$")


class ImagesFork(Fork):
    """A fork with its own recipes, and its registry."""

    def __init__(self, root: Path, folder: Path, registry: Registry, engine: Engine) -> None:
        super().__init__(root, folder)
        self.registry = registry
        self.namespace = registry.namespace()
        self._workflow = load(root / ".github/workflows/images.yml")
        self._machine = Machine(folder / "machine", self.remote, {"DOCKER_HOST": engine.host})
        for recipe in (self.clone / "images").glob("*/image.yaml"):
            shutil.rmtree(recipe.parent)

    def write(self, name: str, yaml: str) -> None:
        folder = self.clone / "images" / name
        folder.mkdir()
        (folder / "image.yaml").write_text(f"description: A test\n{yaml}")
        (folder / "Dockerfile.j2").write_text(
            '{% import "_shared/macros.j2" as steps with context %}\nFROM {{ base }}\n{{ steps.finish() }}\n'
        )

    def start(self) -> Job:
        """Push, and return the job that builds the variants for the CPU."""
        self.git("add", "-A")
        self.git("commit", "-qm", "Change the recipes")
        self.git("push", "-q", "origin", "main")
        context = {
            "matrix.track": "cpu",
            "vars.IMAGES_NAMESPACE": self.namespace,
            "vars.IMAGES_REGISTRY": self.registry.host,
            "vars.IMAGES_USERNAME": self.registry.user or "",
            "secrets.IMAGES_PASSWORD": self.registry.password or "",
            "inputs.recipes": "",
            "github.event.before": "0" * 40,
            "github.sha": self.git("rev-parse", "HEAD").strip(),
        }
        return job(self._workflow, "build", context, self._machine)


@pytest.fixture
def runners_engine() -> Iterator[Engine]:
    """A Docker Engine for this test only, which the workflow may prune."""
    with (
        tempfile.TemporaryDirectory(prefix="llmstack-engine-") as folder,
        own_engine(Path(folder) / "engine") as engine,
    ):
        yield engine


@pytest.fixture
def fork(
    token_registry: Registry,
    engine: Engine,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> ImagesFork:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return ImagesFork(pytestconfig.rootpath, tmp_path, token_registry, engine)


def test_invalid_recipe_fails_the_job(fork: ImagesFork):
    fork.write("broken", "variants: none\n")
    run = fork.start().run()
    assert run.failed, run.log
    assert run.done[-1].name == "List the affected recipes"
    assert "broken/image.yaml" in run.log


def test_recipes_are_pushed_and_images_that_no_later_recipe_needs_are_removed(
    token_registry: Registry,
    registry: Registry,
    runners_engine: Engine,
    busybox_base: Path,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    base = f"{registry.namespace()}/base:latest"
    command = [need("skopeo", "skopeo"), "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"]
    subprocess.run([*command, f"oci:{busybox_base}:latest", f"docker://{base}"], check=True)
    fork = ImagesFork(pytestconfig.rootpath, tmp_path, token_registry, runners_engine)
    for name in ("box", "other"):
        fork.write(
            name, f"variants:\n  cpu:\n    base: {base}\n  cpu-dev:\n    base: {base}\n  cuda13:\n    base: {base}\n"
        )
    fork.write("tools", "parent: box\nvariants:\n  cpu:\n    parent: cpu\n")
    run = fork.start().run()
    assert not run.failed, run.log
    built = ["box:cpu", "box:cpu-dev", "tools:cpu", "other:cpu", "other:cpu-dev"]
    assert [line.split()[0] for line in run.log.splitlines() if f" is {fork.namespace}/" in line] == built
    assert [line for line in run.log.splitlines() if line.startswith(f"pushed {fork.namespace}/")]
    left = runners_engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    moving = {name for name in left if not DATED.search(name)}
    assert moving == {base, f"{fork.namespace}/other:cpu", f"{fork.namespace}/other:cpu-dev"}
    assert {DATED.sub("", name) for name in left if name not in moving} == moving - {base}
    contents = sorted(path.name for path in (tmp_path / "machine/work/contents").iterdir())
    assert contents == ["box-cpu-dev.md", "box-cpu.md", "other-cpu-dev.md", "other-cpu.md", "tools-cpu.md"]
    assert "| Image | " in (tmp_path / "machine/summary.md").read_text()
