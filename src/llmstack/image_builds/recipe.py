"""Read and validate a recipe: a directory with an `image.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import llmstack
from llmstack.errors import UsageError
from llmstack.oci.reference import Reference, is_tag
from llmstack.oci.spec import Platform
from llmstack.safe_yaml import read_yaml
from llmstack.settings import BuildSettings

RECIPE_FILE = "image.yaml"
TEMPLATE_FILE = "Dockerfile.j2"

DEFAULT_PLATFORMS = ("linux/amd64",)

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_RECIPE_KEYS = {
    "description",
    "parent",
    "ports",
    "files",
    "args",
    "packages",
    "labels",
    "local",
    "platforms",
    "variants",
}
_VARIANT_KEYS = {
    "base",
    "stages",
    "parent",
    "args",
    "packages",
    "excluded",
    "python",
    "platform_tag",
    "platforms",
    "tags",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A named variant of a recipe.

    `base` is the base image; None if the recipe has a parent. `stages` are the images of other build stages, by stage
    name. `parent` is the variant of the parent recipe. `packages` are pinned PyPI versions, in the order of image.yaml.
    They are installed for a `python` version on a `platform_tag`. The lock leaves out the packages that are `excluded`.
    Child recipes use the image with the first of `tags`. `platforms` are those that one build can make together.
    """

    name: str
    base: str | None
    stages: Mapping[str, str]
    parent: str | None
    args: Mapping[str, str]
    packages: Mapping[str, str]
    excluded: tuple[str, ...]
    python: str | None
    platform_tag: str | None
    tags: tuple[str, ...]
    platforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A directory with a recipe: its template, its variants (the first is the default) and its context files.

    `files` are copied into the build context; a `.j2` file is rendered first. `local` names the arguments whose value
    may be a local file or directory, which is then added to the build context.
    """

    name: str
    folder: Path
    description: str
    parent: str | None
    ports: tuple[int, ...]
    files: tuple[str, ...]
    labels: Mapping[str, str]
    local: frozenset[str]
    variants: Mapping[str, Variant]

    def file(self, name: str) -> Path | None:
        """Return the path of a context file: in the recipe, beside it, or in the shipped recipes."""
        return _find_file(self.folder, name)

    def variant(self, name: str | None) -> Variant:
        """Return a variant, the default one for None; raises UsageError that lists the known ones."""
        if name is None:
            return next(iter(self.variants.values()))
        if name not in self.variants:
            raise UsageError(
                f"recipe {self.name}: no variant {name!r}", hint=f"known variants: {', '.join(self.variants)}"
            )
        return self.variants[name]


def load_recipe(folder: Path) -> Recipe:
    """Read `folder/image.yaml`; raises UsageError with the file's path and the cause."""
    path = folder / RECIPE_FILE
    value = read_yaml(path)
    try:
        return _recipe(folder, value)
    except _InvalidError as error:
        raise UsageError(f"{path}: {error}") from error


class _InvalidError(Exception):
    """An image.yaml is invalid."""


def _recipe(folder: Path, value: object) -> Recipe:
    fields = _mapping(value, "the file")
    _only(fields, _RECIPE_KEYS, "the recipe")
    if not _NAME.fullmatch(folder.name):
        raise _InvalidError(f"the directory name {folder.name!r} is not a valid image name")
    parent = _optional_string(fields, "parent")
    args, packages = _strings(fields, "args", _IDENTIFIER), _strings(fields, "packages")
    platforms = _platforms(fields) or DEFAULT_PLATFORMS
    variants = {
        name: _variant(name, item, parent, _Defaults(args, packages, platforms))
        for name, item in _mapping(fields.get("variants"), "variants").items()
    }
    if not variants:
        raise _InvalidError("variants is empty")
    ports = _list(fields, "ports")
    if not all(type(port) is int and 0 < port < 65536 for port in ports):
        raise _InvalidError("ports must be a list of numbers from 1 to 65535")
    files = tuple(str(name) for name in _list(fields, "files"))
    for name in files:
        if _find_file(folder, name) is None:
            raise _InvalidError(f"files: {name}: not found")
    return Recipe(
        name=folder.name,
        folder=folder,
        description=_string(fields, "description"),
        parent=parent,
        ports=tuple(ports),
        files=files,
        labels=_strings(fields, "labels"),
        local=frozenset(str(name) for name in _list(fields, "local")),
        variants=variants,
    )


def _find_file(folder: Path, name: str) -> Path | None:
    return next((path for place in (folder, folder.parent, images_folder()) if (path := place / name).is_file()), None)


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What a recipe says for all of its variants."""

    args: Mapping[str, str]
    packages: Mapping[str, str]
    platforms: tuple[str, ...]


def _variant(name: str, value: object, parent: str | None, defaults: _Defaults) -> Variant:
    fields = _mapping(value, f"variant {name}")
    _only(fields, _VARIANT_KEYS, f"variant {name}")
    base = _optional_string(fields, "base")
    if (base is None) == (parent is None):
        raise _InvalidError(f"variant {name}: needs either a base or a recipe with a parent")
    stages = _strings(fields, "stages", _IDENTIFIER)
    for reference in filter(None, (base, *stages.values())):
        _check_reference(reference, name)
    tags = tuple(str(tag) for tag in _list(fields, "tags")) or (name,)
    if not all(is_tag(tag) for tag in tags):
        raise _InvalidError(f"variant {name}: has an invalid tag")
    return Variant(
        name=name,
        base=base,
        stages=stages,
        parent=(_optional_string(fields, "parent") or name) if parent else None,
        args={**defaults.args, **_strings(fields, "args", _IDENTIFIER)},
        packages={**defaults.packages, **_strings(fields, "packages")},
        excluded=tuple(map(str, _list(fields, "excluded"))),
        python=_optional_string(fields, "python"),
        platform_tag=_optional_string(fields, "platform_tag"),
        tags=tags,
        platforms=_platforms(fields) or defaults.platforms,
    )


def _platforms(fields: Mapping[str, Any]) -> tuple[str, ...]:
    platforms = tuple(str(platform) for platform in _list(fields, "platforms"))
    for platform in platforms:
        try:
            Platform.parse(platform)
        except UsageError as error:
            raise _InvalidError(f"platforms: {error.message}") from error
    return platforms


def _check_reference(reference: str, variant: str) -> None:
    try:
        Reference.parse(reference)
    except UsageError as error:
        raise _InvalidError(f"variant {variant}: {error.message}") from error


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _InvalidError(f"{what} must be a mapping with string keys")
    return value


def _only(fields: Mapping[str, Any], allowed: set[str], what: str) -> None:
    for key in fields:
        if key not in allowed:
            raise _InvalidError(f"{what}: unknown key {key!r}; known keys: {', '.join(sorted(allowed))}")


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise _InvalidError(f"{name} must be a string")
    return value


def _optional_string(fields: Mapping[str, Any], name: str) -> str | None:
    return _string(fields, name) if name in fields else None


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise _InvalidError(f"{name} must be a list")
    return value


def _strings(fields: Mapping[str, Any], name: str, keys: re.Pattern[str] | None = None) -> dict[str, str]:
    values = _mapping(fields.get(name, {}), name)
    for key, value in values.items():
        if not isinstance(value, str):
            raise _InvalidError(f"{name}: {key} must be a string: write {value} in quotes")
        if keys and not keys.fullmatch(key):
            raise _InvalidError(f"{name}: {key!r} is not a valid name: use lower-case letters, digits and _")
    return values


def images_folder() -> Path:
    """Return the recipes' directory: a checkout's images/, else the wheel's copy."""
    package = Path(llmstack.__file__).parent
    checkout = package.parents[1] / "images"
    if any(checkout.glob(f"*/{RECIPE_FILE}")):
        return checkout
    return package / "_data" / "images"


def load_recipes(*folders: Path) -> dict[str, Recipe]:
    """Read all recipes of directories, sorted by name.

    Raises UsageError for an invalid recipe, a missing parent, or two recipes of the same name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        paths = [path.parent for path in folder.glob(f"*/{RECIPE_FILE}")]
        if not paths:
            raise UsageError(
                f"{folder}: contains no recipe", hint=f"a recipe is a directory in it with the file {RECIPE_FILE}"
            )
        for path in paths:
            if path.name in found:
                raise UsageError(f"recipe {path.name}: is in {found[path.name].parent} and in {folder}: rename one")
            found[path.name] = path
    recipes = {name: load_recipe(found[name]) for name in sorted(found)}
    for recipe in recipes.values():
        if recipe.parent is None:
            continue
        parent = find(recipes, recipe.parent)
        for variant in recipe.variants.values():
            parent.variant(variant.parent)
    build_order(recipes)
    return recipes


def all_recipes(settings: BuildSettings) -> dict[str, Recipe]:
    """Return the shipped recipes and those of the setting `recipes`."""
    return load_recipes(images_folder(), *settings.recipes)


def find(recipes: Mapping[str, Recipe], name: str) -> Recipe:
    """Return the recipe with that name; raises UsageError that lists the known ones."""
    if name not in recipes:
        raise UsageError(f"recipe {name!r}: not found", hint=f"known recipes: {', '.join(recipes)}")
    return recipes[name]


def lineage(recipes: Mapping[str, Recipe], name: str) -> list[Recipe]:
    """Return a recipe's ancestors from the root down, and the recipe itself last."""
    recipe = find(recipes, name)
    return [*(lineage(recipes, recipe.parent) if recipe.parent else []), recipe]


def build_order(recipes: Mapping[str, Recipe]) -> list[str]:
    """Return all names, parents before children, otherwise by name; raises UsageError for a cycle."""
    sorter = TopologicalSorter({name: [recipe.parent] if recipe.parent else [] for name, recipe in recipes.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise UsageError(f"recipes: circular parents: {' → '.join(error.args[1])}") from error
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    return order
