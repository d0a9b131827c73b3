"""The wheel that llmstack packs of itself: a real installer installs it, and it packs the same wheel again."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from llmstack.image_builds.own_wheel import own_wheel
from llmstack.image_builds.recipe import images_folder, load_recipes

ROOT = Path(__file__).parents[2]
AGAIN = (
    "import sys; from pathlib import Path; from llmstack.image_builds.own_wheel import own_wheel;"
    "name, data = own_wheel(); Path(sys.argv[1], name).write_bytes(data)"
)


def test_installed_wheel_packs_an_equal_wheel(tmp_path):
    name, data = own_wheel()
    (tmp_path / name).write_bytes(data)
    installed, again = tmp_path / "installed", tmp_path / "again"
    again.mkdir()
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", installed]
    subprocess.run([*install, tmp_path / name], check=True)
    # PYTHONPATH precedes the tests' llmstack. Both use the same dependencies.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run([sys.executable, "-c", AGAIN, str(again)], env=environment, cwd=tmp_path, check=True)
    assert (again / name).read_bytes() == data
    listed = subprocess.run(
        [installed / "bin" / "llmstack", "build", "hub", "--dry-run"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "FROM debian:bookworm-slim AS runtime\n" in listed
    assert (installed / "llmstack/_data/images/hub/health.py").is_file()


def test_llmstack_that_is_not_installed_cannot_be_packed(tmp_path):
    for package in (ROOT / "src" / "llmstack", Path(yaml.__file__).parent):
        (tmp_path / package.name).symlink_to(package)
    # -S: no site-packages, so no installation metadata.
    code = "import llmstack.image_builds.own_wheel as own; own.own_wheel()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "llmstack: cannot be packed for an image" in done.stderr


def test_hub_recipe_pins_all_dependencies_of_llmstack_and_its_hub_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    required = {requirement.name: requirement.specifier for requirement in map(Requirement, dependencies)}
    # Only `llmstack build pip-offline` needs pip.
    del required["pip"]
    pins = load_recipes(images_folder())["hub"].variants["cpu"].packages
    assert set(pins) == set(required)
    assert all(required[name].contains(version) for name, version in pins.items())
