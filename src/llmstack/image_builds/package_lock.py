"""The lock of a variant's packages: exact versions with hashes, in pip's format; tools/lock-packages generates it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from llmstack.errors import UsageError
from llmstack.image_builds.recipe import Recipe, Variant

# The start of an entry of the lock. Its hashes and comments are indented.
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class PackageLock:
    """The content of a lock, its versions by normalized name, and the pins of image.yaml that it does not contain.

    Such a pin is of a page outside the package index that was not reachable when the lock was generated.
    """

    content: bytes
    versions: Mapping[str, str]
    unlocked: Mapping[str, str]


def lock_path(recipe: Recipe, variant: Variant) -> Path:
    """Return the path of a variant's lock, whether it exists or not."""
    return recipe.folder / "locks" / f"{variant.name}.txt"


def read_lock(recipe: Recipe, variant: Variant) -> PackageLock | None:
    """Return a variant's lock, None if it has none. Raises UsageError if it does not match the pins of image.yaml."""
    path = lock_path(recipe, variant)
    if not path.is_file():
        return None
    content = path.read_bytes()
    versions = entries(content.decode())
    unlocked = {}
    for package, pin in pins(variant).items():
        locked = versions.get(package_name(package))
        if locked is None:
            unlocked[package] = pin
        elif locked != pin:
            raise UsageError(
                f"{path}: out of date: it has {package} {locked}, and image.yaml pins {pin}", hint="run make locks"
            )
    return PackageLock(content, versions, unlocked)


def entries(text: str) -> dict[str, str]:
    """Return the versions of a lock by normalized name."""
    return {canonicalize_name(name): version for name, version in _ENTRY.findall(text)}


def pins(variant: Variant) -> dict[str, str]:
    """Return the packages of a variant without those that are excluded."""
    excluded = set(map(canonicalize_name, variant.excluded))
    return {name: pin for name, pin in variant.packages.items() if package_name(name) not in excluded}


def package_name(requirement: str) -> str:
    """Return the normalized name of a package with extras: `cuda-toolkit[nvcc]` is cuda-toolkit."""
    match = _NAME.match(requirement)
    return canonicalize_name(match[0] if match else requirement)
