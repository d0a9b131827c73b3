"""Recipes of the setting `recipes`, with llmstack installed from its wheel: no checkout is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from llmstack.image_builds.own_wheel import own_wheel
from tests.image_builds.test_recipe import write

ROOT = Path(__file__).parents[2]
TEMPLATE = """\
{% import "_shared/macros.j2" as steps with context %}
{{ steps.header() }}
FROM {{ base }}
{{ steps.build_environment() }}
{{ steps.apt(["tini"]) }}
{% include "_common/note.j2" %}
{{ steps.entrypoint("my-tool") }}
COPY my-tool.sh shared.txt /usr/local/bin/
{{ steps.finish() }}
"""
RECIPE = """\
description: A tool of this site
files: [_shared/entrypoint.sh, my-tool.sh, shared.txt]
variants: {cpu: {base: "debian:bookworm-slim"}}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with llmstack from its wheel; it finds its dependencies in the tests' Python."""
    folder = tmp_path_factory.mktemp("installed")
    name, data = own_wheel()
    (folder / name).write_bytes(data)
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", folder / "site"]
    subprocess.run([*install, folder / name], check=True)
    return folder / "site"


@pytest.fixture
def site(tmp_path):
    """A directory with llmstack.yaml and the recipes my-tool and my-hf."""
    recipes = tmp_path / "recipes"
    (recipes / "_common").mkdir(parents=True)
    (recipes / "_common" / "note.j2").write_text("# A note.\n")
    (recipes / "shared.txt").write_text("shared\n")
    write(recipes, "my-tool", RECIPE, TEMPLATE)
    (recipes / "my-tool" / "my-tool.sh").write_text("#!/bin/sh\n")
    write(recipes, "my-hf", "description: Ours\nparent: hf\nvariants: {cpu: {}}\n")
    (tmp_path / "llmstack.yaml").write_text("recipes: [recipes]\n")
    return tmp_path


def llmstack(installed, site, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    command = [installed / "bin" / "llmstack", *arguments]
    return subprocess.run(command, env=environment, cwd=site, capture_output=True, text=True, check=False)


def test_private_recipes_are_listed_with_the_shipped_ones(installed, site):
    listed = llmstack(installed, site, "images")
    assert listed.returncode == 0, listed.stderr
    assert "my-tool: A tool of this site\n" in listed.stdout
    assert "my-hf: Ours\n  cpu           from hf:cpu" in listed.stdout
    assert "\nvllm: " in listed.stdout


def test_private_recipe_uses_shared_steps_and_its_own(installed, site):
    done = llmstack(installed, site, "build", "my-tool", "--export-context", "context")
    assert done.returncode == 0, done.stderr
    dockerfile = (site / "context" / "Dockerfile").read_text()
    assert "recipes/my-tool/Dockerfile.j2, variant cpu" in dockerfile
    assert "# A note.\n" in dockerfile
    assert 'ENTRYPOINT ["tini", "--", "llmstack-entrypoint", "my-tool"]' in dockerfile
    assert (site / "context" / "shared.txt").read_text() == "shared\n"
    assert (site / "context" / "_shared" / "entrypoint.sh").is_file()
    assert "FROM hf:cpu\n" in llmstack(installed, site, "build", "my-hf", "--dry-run").stdout


@pytest.mark.slow
def test_error_names_the_private_file(installed, site):
    path = site / "recipes" / "my-tool" / "Dockerfile.j2"
    for text, cause in (
        ("FROM {{ base }}\n{{ nope }}\n", f"{path}, line 2: 'nope' is undefined"),
        ("FROM {{ base }}\n{% if %}\n", f"{path}, line 2: Expected an expression"),
        ('{% include "_shared/nope.j2" %}\n', "my-tool/Dockerfile.j2: template not found: _shared/nope.j2"),
    ):
        path.write_text(text)
        done = llmstack(installed, site, "build", "my-tool", "--dry-run")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {cause}"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("recipes: [nowhere]", "nowhere: contains no recipe"),
        ("recipes: nowhere", "recipes must be a list of paths"),
        ("recipes: [recipes, recipes]", "recipe my-hf: is in "),
    ],
)
def test_invalid_setting_is_refused(installed, site, setting, cause):
    (site / "llmstack.yaml").write_text(f"{setting}\n")
    done = llmstack(installed, site, "images")
    assert done.returncode == 2
    assert cause in done.stderr


def test_private_recipe_cannot_have_the_name_of_a_shipped_one(installed, site):
    (site / "recipes" / "my-hf").rename(site / "recipes" / "hf")
    done = llmstack(installed, site, "images")
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe hf: is in ")


def test_setting_may_be_a_variable(installed, site):
    (site / "llmstack.yaml").unlink()
    assert llmstack(installed, site, "build", "my-tool", "--dry-run").returncode == 2
    environment = {**os.environ, "LLMSTACK_RECIPES": f"{site}/recipes", "PYTHONPATH": str(installed)}
    command = [installed / "bin" / "llmstack", "build", "my-tool", "--dry-run"]
    assert subprocess.run(command, env=environment, cwd=site, capture_output=True, check=False).returncode == 0


def test_example_of_the_documentation_works(installed, tmp_path):
    page = (ROOT / "docs/how-to/build-images.md").read_text()
    files = dict(re.findall(r"^# images/(my-tool/[\w.]+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert set(files) == {"my-tool/image.yaml", "my-tool/Dockerfile.j2"}
    (tmp_path / "images" / "my-tool").mkdir(parents=True)
    for name, text in {**files, "my-tool/report.sh": "#!/bin/sh\n"}.items():
        (tmp_path / "images" / name).write_text(text)
    (tmp_path / "llmstack.yaml").write_text("recipes: [images]\npip_index: https://pip.site/simple\n")
    done = llmstack(installed, tmp_path, "build", "my-tool", "--variant", "cpu", "--export-context", "context")
    assert done.returncode == 0, done.stderr
    dockerfile = (tmp_path / "context/Dockerfile").read_text()
    assert "FROM vllm:cpu\nUSER 0\n" in dockerfile
    assert "rich==15.0.0" in dockerfile
