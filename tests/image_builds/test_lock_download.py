"""The packages of a lock as an offline index: its files, and for sources what builds them, for the image's Python."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile

import pytest

from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.lock_download import download_locked, locked_packages
from llmstack.image_builds.recipe import images_folder, load_recipes
from llmstack.image_builds.wheel_index import read_package
from llmstack.settings import BuildSettings
from tests.image_builds.test_recipe import write
from tests.image_builds.test_wheel_download import serve
from tests.image_builds.test_wheel_index import write_wheel
from tests.support.listener import Listener

BACKEND = """\
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "source-2.0-TAG.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as archive:
        info = "source-2.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: source\\nVersion: 2.0\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: TAG\\n")
        archive.writestr(f"{info}/RECORD", "")
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
RECIPE = """\
description: x
variants:
  gpu:
    base: debian
    python: "3.12"
    platform_tag: manylinux_2_39_x86_64
    packages: {app: "1.0"}
"""


def write_sdist(folder, tag):
    path = folder / "source-2.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        files = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND.replace("TAG", tag), "PKG-INFO": "Name: source\n"}
        for name, text in files.items():
            info = tarfile.TarInfo(f"source-2.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def write_platform_wheel(folder, tag):
    """A wheel of app 1.0 for one Python version and platform."""
    plain = write_wheel(folder, "app", "1.0", "Requires-Dist: source\n")
    path = folder / f"app-1.0-{tag}.whl"
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for item in old.namelist():
            new.writestr(item, old.read(item).replace(b"py3-none-any", tag.encode()))
    plain.unlink()
    return path


@pytest.fixture(params=["py3-none-any", "cp311-cp311-linux_x86_64"])
def site(request, tmp_path):
    """A recipe with a lock for Python 3.12, and a package index that also has files for other targets."""
    offered = tmp_path / "offered"
    offered.mkdir()
    paths = [write_sdist(offered, request.param)]
    paths += [
        write_platform_wheel(offered, tag) for tag in ("cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-win_amd64")
    ]
    lock = "# Generated.\n"
    for name, version in (("app", "1.0"), ("source", "2.0")):
        found = [path for path in paths if path.name.startswith(name)]
        hashes = [f"    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in found]
        lock += f"{name}=={version} \\\n" + " \\\n".join(hashes) + "\n"
    (tmp_path / "recipes").mkdir()
    write(tmp_path / "recipes", "mine", RECIPE)
    (tmp_path / "recipes/mine/locks").mkdir()
    (tmp_path / "recipes/mine/locks/gpu.txt").write_text(lock)
    paths += [write_wheel(offered, name, "1.0") for name in ("setuptools", "wheel", "unrelated")]
    return tmp_path, paths, request.param


def download(folder, url):
    for name in ("files", "work"):
        (folder / name).mkdir()
    [packages] = locked_packages(load_recipes(folder / "recipes"), "mine:gpu")
    environment, listener = BuildEnvironment(BuildSettings(pip_index=url)), Listener()
    download_locked(packages, environment, folder / "files", folder / "work", listener)
    return sorted((folder / "files").iterdir()), listener


@pytest.mark.slow
def test_index_of_a_lock_installs_with_hashes(site):
    folder, offered, tag = site
    with serve(folder / "pypi", offered) as url:
        paths, listener = download(folder, url)
    names = {path.name for path in paths}
    expected = {"app-1.0-cp312-cp312-manylinux_2_28_x86_64.whl", "source-2.0.tar.gz"}
    expected |= {"setuptools-1.0-py3-none-any.whl", "wheel-1.0-py3-none-any.whl"}
    assert names - {"source-2.0-py3-none-any.whl"} == expected
    # A wheel that only runs on this Python is not for the image.
    assert ("source-2.0-py3-none-any.whl" in names) == (tag == "py3-none-any")
    assert any("source-2.0" in note for note in listener.notes)
    with serve(folder / "behind", paths) as url:
        target = ("--python-version=3.12", "--platform=manylinux_2_28_x86_64", "--no-deps", "--require-hashes")
        lock = folder / "recipes/mine/locks/gpu.txt"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--isolated", "--index-url", url]
        subprocess.run([*pip, *target, "--dest", folder / "again", "--requirement", lock], check=True, env={})
    assert {path.name for path in (folder / "again").iterdir()} == names & {
        "app-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "source-2.0.tar.gz",
    }


@pytest.mark.slow
def test_file_that_is_not_in_the_lock_is_refused(site):
    folder, offered, _ = site
    lock = folder / "recipes/mine/locks/gpu.txt"
    lock.write_text("app==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with serve(folder / "pypi", offered) as url, pytest.raises(LlmstackError, match=r"mine:gpu \(Python 3\.12"):
        download(folder, url)


def test_image_includes_the_packages_of_its_parents():
    recipes = load_recipes(images_folder())
    assert [each.title for each in locked_packages(recipes, "hf-dev:cuda13")] == ["hf-dev:cuda13", "hf:cuda13"]
    [vllm] = locked_packages(recipes, "vllm:cuda13")
    assert (vllm.python, vllm.platform) == ("3.12", "manylinux_2_39_x86_64")
    with pytest.raises(UsageError, match="no variant 'rocm'"):
        locked_packages(recipes, "vllm:rocm")
    with pytest.raises(UsageError, match="installs no Python packages"):
        locked_packages(recipes, "llama.cpp:cpu")


def test_source_distribution_is_a_file_of_the_index(tmp_path):
    package = read_package(write_sdist(tmp_path, "py3-none-any"))
    assert (package.project, package.version, package.metadata, package.requires_python) == (
        "source",
        "2.0",
        None,
        None,
    )
