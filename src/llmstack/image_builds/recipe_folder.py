"""The recipes of images/, and the order in which they are built."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import llmstack
from llmstack.errors import UsageError
from llmstack.image_builds.recipe import RECIPE_FILE, Recipe, load_recipe


def images_folder() -> Path:
    """Return the recipes' directory: a checkout's images/, else the wheel's copy."""
    package = Path(llmstack.__file__).parent
    checkout = package.parents[1] / "images"
    if any(checkout.glob(f"*/{RECIPE_FILE}")):
        return checkout
    return package / "_data" / "images"


def load_recipes(folder: Path) -> dict[str, Recipe]:
    """Read all recipes of a directory, sorted by name; raises UsageError for an invalid recipe or a missing parent."""
    found = sorted(path.parent for path in folder.glob(f"*/{RECIPE_FILE}"))
    if not found:
        raise UsageError(f"{folder}: contains no recipe")
    recipes = {path.name: load_recipe(path) for path in found}
    for recipe in recipes.values():
        if recipe.parent is None:
            continue
        parent = find(recipes, recipe.parent)
        for variant in recipe.variants.values():
            parent.variant(variant.parent)
    build_order(recipes)
    return recipes


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
