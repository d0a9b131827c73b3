"""The images workflow, run step by step against an engine, a registry that wants a login, and a git remote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.registry import Registry
from tests.workflows.actions import Job, Machine, job, load
from tests.workflows.fork import Fork


class Site(Fork):
    """A fork that has recipes of its own, and the registry that they go to."""

    def __init__(self, root: Path, folder: Path, registry: Registry, engine: Engine) -> None:
        super().__init__(root, folder)
        self.registry = registry
        self.space = registry.namespace()
        self._workflow = load(root / ".github/workflows/images.yml")
        self._machine = Machine(folder / "machine", self.remote, {"DOCKER_HOST": engine.host})
        for recipe in (self.person / "images").glob("*/image.yaml"):
            shutil.rmtree(recipe.parent)

    def write(self, name: str, yaml: str) -> None:
        folder = self.person / "images" / name
        folder.mkdir()
        (folder / "image.yaml").write_text(f"description: A test\n{yaml}")
        (folder / "Dockerfile.j2").write_text(
            '{% import "_shared/macros.j2" as steps with context %}\nFROM {{ base }}\n{{ steps.finish() }}\n'
        )

    def start(self) -> Job:
        """Push, and start the job that builds the variants for the CPU."""
        self.git("add", "-A")
        self.git("commit", "-qm", "Change the recipes")
        self.git("push", "-q", "origin", "main")
        context = {
            "matrix.track": "cpu",
            "vars.IMAGES_NAMESPACE": self.space,
            "vars.IMAGES_REGISTRY": self.registry.host,
            "vars.IMAGES_USERNAME": self.registry.user or "",
            "secrets.IMAGES_PASSWORD": self.registry.password or "",
            "inputs.recipes": "",
            "github.event.before": "0" * 40,
            "github.sha": self.git("rev-parse", "HEAD").strip(),
        }
        return job(self._workflow, "build", context, self._machine)


@pytest.fixture
def site(
    token_registry: Registry,
    engine: Engine,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> Site:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    return Site(pytestconfig.rootpath, tmp_path, token_registry, engine)


def test_a_recipe_that_cannot_be_read_fails_the_job(site: Site):
    site.write("broken", "variants: none\n")
    run = site.start().run()
    assert run.failed, run.log
    assert run.done[-1].name == "Find what changed"
    assert "broken/image.yaml" in run.log
