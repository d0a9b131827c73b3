"""hf:cuda11.8 on a stand-in for NVIDIA's image: Python 3.8, the PyTorch before 1.14.0a0, the same numpy."""

from __future__ import annotations

import subprocess

import pytest

from llmstack.image_builds.recipe import images_folder, load_recipe
from tests.images.training import TRAIN
from tests.support.pythons import make_environment, run_uv

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800), pytest.mark.xdist_group("images")]
# What the image has. PyPI's build of PyTorch needs CUDA's libraries, also without a GPU.
PROVIDED = ("torch==1.13.1", "numpy==1.22.2")


@pytest.fixture(scope="module")
def python(started_with, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda11.8")
    pins = load_recipe(images_folder() / "hf").variants["cuda11.8"].packages
    python = make_environment(folder / "venv", "3.8", started_with) / "bin" / "python"
    requirements = [*PROVIDED, *(f"{name}=={version}" for name, version in pins.items())]
    done = run_uv("pip", "install", "--python", str(python), *requirements, env=started_with)
    assert done.returncode == 0, done.stderr
    return python


def test_trainer_makes_a_step_with_deepspeed_and_trl_installed(python, tmp_path):
    done = subprocess.run([python, "-c", TRAIN], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained with 4.46.3 0.18.0 SFTTrainer"
