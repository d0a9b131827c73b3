"""A recipe's `image.yaml` as values, and its validation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstack.errors import UsageError
from llmstack.oci.reference import Reference, is_tag
from llmstack.safe_yaml import read_yaml

RECIPE_FILE = "image.yaml"
TEMPLATE_FILE = "Dockerfile.j2"

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_RECIPE_KEYS = {"description", "parent", "ports", "files", "args", "packages", "labels", "local", "variants"}
_VARIANT_KEYS = {"base", "stages", "parent", "args", "packages", "tags"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A named set of a recipe's arguments.

    `base` is the image that the chain starts from; None where the recipe has a parent. `stages` are the images of
    further build stages, by stage name. `parent` is the variant of the parent recipe. `packages` are PyPI pins, in
    the order of image.yaml. `tags` are what follows the repository's colon; the first is the one that children name.
    """

    name: str
    base: str | None
    stages: Mapping[str, str]
    parent: str | None
    args: Mapping[str, str]
    packages: Mapping[str, str]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A folder of images/: its template, its variants (the first is the default) and its context files.

    `files` are copied into the build context; those that end in `.j2` are rendered on the way. `local` names the
    arguments whose value may be a file or folder on this machine, which then comes along in the context.
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

    def variant(self, name: str | None) -> Variant:
        """Return a variant, the default one for None; raises UsageError that lists those there are."""
        if name is None:
            return next(iter(self.variants.values()))
        if name not in self.variants:
            raise UsageError(f"{self.name} has no variant {name!r}", hint=f"it has {', '.join(self.variants)}")
        return self.variants[name]


def load_recipe(folder: Path) -> Recipe:
    """Read `folder/image.yaml`; raises UsageError that names the file and what is wrong in it."""
    path = folder / RECIPE_FILE
    value = read_yaml(path)
    try:
        return _recipe(folder, value)
    except _WrongError as error:
        raise UsageError(f"{path}: {error}") from error


class _WrongError(Exception):
    """Something in an image.yaml is not as it must be."""


def _recipe(folder: Path, value: object) -> Recipe:
    fields = _mapping(value, "the file")
    _only(fields, _RECIPE_KEYS, "the recipe")
    if not _NAME.fullmatch(folder.name):
        raise _WrongError(f"the folder's name {folder.name!r} cannot be an image's")
    parent = _optional_text(fields, "parent")
    args, packages = _texts(fields, "args", _IDENTIFIER), _texts(fields, "packages")
    variants = {
        name: _variant(name, item, parent, args, packages)
        for name, item in _mapping(fields.get("variants"), "variants").items()
    }
    if not variants:
        raise _WrongError("there is no variant")
    ports = _list(fields, "ports")
    if not all(type(port) is int and 0 < port < 65536 for port in ports):
        raise _WrongError("ports must be numbers from 1 to 65535")
    files = tuple(str(name) for name in _list(fields, "files"))
    for name in files:
        if not (folder / name).is_file() and not (folder.parent / name).is_file():
            raise _WrongError(f"there is no context file {name}")
    return Recipe(
        name=folder.name,
        folder=folder,
        description=_text(fields, "description"),
        parent=parent,
        ports=tuple(ports),
        files=files,
        labels=_texts(fields, "labels"),
        local=frozenset(str(name) for name in _list(fields, "local")),
        variants=variants,
    )


def _variant(
    name: str, value: object, parent: str | None, args: Mapping[str, str], packages: Mapping[str, str]
) -> Variant:
    fields = _mapping(value, f"variant {name}")
    _only(fields, _VARIANT_KEYS, f"variant {name}")
    base = _optional_text(fields, "base")
    if (base is None) == (parent is None):
        raise _WrongError(f"variant {name} needs a base, or the recipe a parent, and not both")
    stages = _texts(fields, "stages", _IDENTIFIER)
    for reference in filter(None, (base, *stages.values())):
        _reference(reference, name)
    tags = tuple(str(tag) for tag in _list(fields, "tags")) or (name,)
    if not all(is_tag(tag) for tag in tags):
        raise _WrongError(f"variant {name} has a tag that no tag may be")
    return Variant(
        name=name,
        base=base,
        stages=stages,
        parent=(_optional_text(fields, "parent") or name) if parent else None,
        args={**args, **_texts(fields, "args", _IDENTIFIER)},
        packages={**packages, **_texts(fields, "packages")},
        tags=tags,
    )


def _reference(text: str, variant: str) -> None:
    try:
        Reference.parse(text)
    except UsageError as error:
        raise _WrongError(f"variant {variant}: {error.message}") from error


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _WrongError(f"{what} must be a mapping of names")
    return value


def _only(fields: Mapping[str, Any], allowed: set[str], what: str) -> None:
    for key in fields:
        if key not in allowed:
            raise _WrongError(f"{what} has no setting {key!r}; there are {', '.join(sorted(allowed))}")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise _WrongError(f"{name} must be a text")
    return value


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return _text(fields, name) if name in fields else None


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise _WrongError(f"{name} must be a list")
    return value


def _texts(fields: Mapping[str, Any], name: str, keys: re.Pattern[str] | None = None) -> dict[str, str]:
    values = _mapping(fields.get(name, {}), name)
    for key, value in values.items():
        if not isinstance(value, str):
            raise _WrongError(f"{name}: {key} must be a text: write {value} in quotes")
        if keys and not keys.fullmatch(key):
            raise _WrongError(f"{name}: {key!r} cannot be used in a template; it must be lower case with _")
    return values
