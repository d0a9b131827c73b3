"""The pairs that `build` takes, and the output of `build` and `images`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from llmstack.cli.tables import stdout_width
from llmstack.errors import UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.build_plan import image_names
from llmstack.image_builds.builder import BuildResult, ExportResult
from llmstack.image_builds.recipe import Recipe


def parse_pairs(texts: Sequence[str], *, unnamed: bool = False) -> dict[str, str]:
    """Read `NAME=VALUE` options; with `unnamed` a value alone is allowed, under "". Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and not unnamed:
            raise UsageError(f"{text!r}: no value", hint="use NAME=VALUE")
        key, content = (name, value) if equals else ("", text)
        if key in pairs:
            raise UsageError(f"{key or '--base'}: given twice")
        pairs[key] = content
    return pairs


def print_built(results: Sequence[BuildResult], *, as_json: bool) -> None:
    """Print one JSON document, or one image name per line."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=2) + "\n")
        return
    for result in results:
        sys.stdout.write("".join(f"{tag}\n" for tag in result.tags))


def print_exported(result: ExportResult, *, as_json: bool) -> None:
    """Print one JSON document, or the directory."""
    sys.stdout.write((json.dumps(asdict(result), indent=2) if as_json else result.context) + "\n")


def print_recipes(recipes: Mapping[str, Recipe], environment: BuildEnvironment, *, as_json: bool) -> None:
    """Print the recipes: one JSON document, or a paragraph each."""
    tags = {
        recipe.name: {
            variant.name: list(image_names(recipe, variant, environment.namespace))
            for variant in recipe.variants.values()
        }
        for recipe in recipes.values()
    }
    if as_json:
        listed = [
            {"name": recipe.name, "parent": recipe.parent, "variants": list(recipe.variants), "tags": tags[recipe.name]}
            for recipe in recipes.values()
        ]
        sys.stdout.write(json.dumps(listed, indent=2) + "\n")
        return
    width, indent = stdout_width(), max(len(variant) for recipe in recipes.values() for variant in recipe.variants) + 4
    for recipe in recipes.values():
        about = textwrap.fill(
            f"{recipe.name}: {recipe.description}", width, subsequent_indent="  ", break_on_hyphens=False
        )
        sys.stdout.write(f"{about}\n")
        for variant in recipe.variants.values():
            base = variant.base or f"{recipe.parent}:{variant.parent}"
            start = f"  {variant.name}".ljust(indent) + f"from {base}"
            end = f"→  {', '.join(tags[recipe.name][variant.name])}"
            fits = len(start) + 2 + len(end) <= width
            sys.stdout.write(start + ("  " if fits else "\n" + " " * indent) + end + "\n")
