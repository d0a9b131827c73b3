"""Every pin of every recipe exists, and the pins of a variant can be installed together on its Python."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from llmstack.recipes.shelf import images_folder, load_recipes

pytestmark = [pytest.mark.images, pytest.mark.timeout(600), pytest.mark.xdist_group("images")]
RECIPES = load_recipes(images_folder())
# The Python of each base, by how the base's name ends.
PYTHONS = {"pytorch:22.12-py3": "3.8", "ubuntu22.04": "3.10", "ubuntu24.04": "3.12", "bookworm-slim": "3.11"}
# Comes as a file of a release; the index has the same version for another CUDA, with the same needs.
WHEELS = {("vllm", "cuda11.8"): "vllm==0.8.5.post1"}
PINNED = [
    (recipe.name, variant.name)
    for recipe in RECIPES.values()
    for variant in recipe.variants.values()
    if variant.packages
]


def python_of(recipe, variant):
    parent = RECIPES[recipe.parent].variants[variant.parent] if recipe.parent else variant
    bases = [parent.base, *variant.stages.values()]
    return next(python for base in bases for end, python in PYTHONS.items() if base.endswith(end))


@pytest.mark.parametrize(("name", "variant"), PINNED)
def test_pins_resolve(name, variant, tmp_path, started_with):
    recipe = RECIPES[name]
    chosen = recipe.variants[variant]
    # PyTorch's own builds (+cpu, +cu118) have pages of their own; the index has the same versions.
    pins = [f"{package}=={version.partition('+')[0]}" for package, version in chosen.packages.items()]
    pins += [WHEELS[name, variant]] if (name, variant) in WHEELS else []
    overrides = tmp_path / "overrides.txt"
    overrides.write_text("".join(f"{pin}\n" for pin in pins if pin.startswith("torch==")))
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "uv",
            *("pip", "compile", "--quiet", "--python-version", python_of(recipe, chosen)),
            *("--python-platform", "x86_64-manylinux_2_28", "--override", overrides, "-"),
        ],
        # The index and the certificates are those of the machine.
        env=dict(started_with),
        input="\n".join(pins),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
