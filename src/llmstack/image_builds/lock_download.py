"""Download the locked packages of an image, so that an offline index can build that image again."""

from __future__ import annotations

import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.package_lock import entries, pins, read_lock
from llmstack.image_builds.recipe import Recipe, lineage
from llmstack.image_builds.wheel_download import run_pip, selection, target_markers
from llmstack.reporting import Reporter

# What pip needs to build a source distribution that names nothing else (PEP 518), and older ones without naming it.
_BUILD_TOOLS = ("setuptools", "wheel")
_MAX_PYPROJECT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LockedPackages:
    """The packages of one image: its lock, the pins that it does not contain, pages to find them, and the target."""

    title: str
    lock: str
    unlocked: Mapping[str, str]
    links: tuple[str, ...]
    python: str
    platform: str


def locked_packages(recipes: Mapping[str, Recipe], image: str) -> list[LockedPackages]:
    """Return the packages of an image (`vllm:cuda13`; without a variant, its first) and of its parents.

    Raises UsageError for an unknown image, or one without locked packages.
    """
    name, _, variant_name = image.partition(":")
    chain = lineage(recipes, name)
    variant = chain[-1].variant(variant_name or None)
    found: list[LockedPackages] = []
    for recipe in reversed(chain):
        lock = read_lock(recipe, variant)
        unlocked = pins(variant) if lock is None else dict(lock.unlocked)
        if lock or unlocked:
            if not variant.python or not variant.platform_tag:
                raise UsageError(f"{recipe.name}:{variant.name}: image.yaml needs python and platform_tag for --for")
            links = tuple(variant.args.get("torch_links", "").split())
            text = lock.content.decode() if lock else ""
            target = (variant.python, variant.platform_tag)
            found.append(LockedPackages(f"{recipe.name}:{variant.name}", text, unlocked, links, *target))
        if recipe.parent:
            variant = recipes[recipe.parent].variant(variant.parent)
    if not found:
        raise UsageError(f"--for {image}: the recipe installs no Python packages")
    return found


def download_locked(
    packages: LockedPackages, environment: BuildEnvironment, folder: Path, work: Path, reporter: Reporter
) -> None:
    """Download the files of a lock into `folder`, with their hashes checked.

    A package without a wheel for the target comes as its source, which is what the lock's hash allows, with the tools
    that build it; and as a wheel that is built here, if that does not depend on the Python version.
    """
    target = f"{packages.title} (Python {packages.python}, {packages.platform})"
    reporter.note(f"pip-offline: downloading the packages of {target}")
    links = [f"--find-links={link}" for link in packages.links]
    where = [*selection(packages.python, packages.platform), f"--dest={folder}"]
    before = set(folder.iterdir())
    if packages.lock:
        lock = work / f"{packages.title.replace(':', '-')}.txt"
        lock.write_text(packages.lock)
        run_pip(
            ["download", "--no-deps", "--require-hashes", *where, *links, f"--requirement={lock}"],
            environment,
            target,
            reporter,
        )
    if packages.unlocked:
        constraints = work / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in entries(packages.lock).items()))
        wanted = [f"{name}=={version}" for name, version in packages.unlocked.items()]
        arguments = ["download", "--only-binary=:all:", *where, *links, f"--constraint={constraints}", *wanted]
        run_pip(arguments, environment, target, reporter, target_markers(packages.python, packages.platform))
    for source in sorted(set(folder.iterdir()) - before):
        if source.suffix != ".whl":
            _build(source, packages, environment, folder, work, reporter)


def _build(
    source: Path,
    packages: LockedPackages,
    environment: BuildEnvironment,
    folder: Path,
    work: Path,
    reporter: Reporter,
) -> None:
    tools = [*_BUILD_TOOLS, *_build_requirements(source)]
    target = f"the build of {source.name}"
    where = [*selection(packages.python, packages.platform), f"--dest={folder}"]
    markers = target_markers(packages.python, packages.platform)
    run_pip(["download", "--only-binary=:all:", *where, *tools], environment, target, reporter, markers)
    built = work / f"built-{source.name}"
    try:
        run_pip(["wheel", "--no-deps", f"--wheel-dir={built}", str(source)], environment, target, reporter)
    except LlmstackError as error:
        reporter.warn(f"{source.name}: no wheel can be built here, the index has the source: {error.message}")
        return
    for wheel in built.glob("*.whl"):
        if wheel.stem.endswith("-none-any"):
            reporter.note(f"pip-offline: built {wheel.name}")
            wheel.replace(folder / wheel.name)
        else:
            reporter.note(f"pip-offline: {wheel.name} is for this machine only: the index has the source")


def _build_requirements(source: Path) -> list[str]:
    """Return what pyproject.toml of a source distribution names under build-system.requires."""
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and member.name.count("/") == 1 and member.name.endswith("/pyproject.toml"):
                    file = archive.extractfile(member)
                    text = file.read(_MAX_PYPROJECT).decode() if file else ""
                    requires = tomllib.loads(text).get("build-system", {}).get("requires", [])
                    return [str(requirement) for requirement in requires]
    except (tarfile.TarError, OSError, ValueError):
        # A zip file, or no valid one: pip has accepted it, and the usual tools may build it.
        pass
    return []
