"""llmstack as a wheel of itself: installed by a real installer, it makes the same wheel again."""

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
from llmstack.image_builds.recipe_folder import images_folder, load_recipes

ROOT = Path(__file__).parents[2]
AGAIN = (
    "import sys; from pathlib import Path; from llmstack.image_builds.own_wheel import own_wheel;"
    "name, data = own_wheel(); Path(sys.argv[1], name).write_bytes(data)"
)


def test_the_wheel_installs_and_makes_itself_again(tmp_path):
    name, data = own_wheel()
    (tmp_path / name).write_bytes(data)
    installed, again = tmp_path / "installed", tmp_path / "again"
    again.mkdir()
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", installed]
    subprocess.run([*install, tmp_path / name], check=True)
    # It comes before the llmstack of the tests; what both need is where it always is.
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


def test_a_llmstack_that_was_not_installed_says_so(tmp_path):
    for package in (ROOT / "src" / "llmstack", Path(yaml.__file__).parent):
        (tmp_path / package.name).symlink_to(package)
    # -S: no site-packages, where installing leaves its records.
    code = "import llmstack.image_builds.own_wheel as own; own.own_wheel()"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "llmstack cannot be put into an image" in done.stderr


def test_the_hubs_pins_are_all_that_llmstack_and_its_extra_ask_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    wanted = {requirement.name: requirement.specifier for requirement in map(Requirement, asked)}
    # Only `llmstack build pip-offline` needs it.
    del wanted["pip"]
    pins = load_recipes(images_folder())["hub"].variants["cpu"].packages
    assert set(pins) == set(wanted)
    assert all(wanted[name].contains(version) for name, version in pins.items())
