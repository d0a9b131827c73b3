"""What a build will do, as values: planning asks one question (is that image here?) and does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.errors import UsageError
from llmstack.image_builds.dockerfile import Rendered, RenderInputs, render
from llmstack.image_builds.recipe import Recipe, Variant
from llmstack.image_builds.recipe_folder import build_order, find, lineage
from llmstack.image_builds.site_settings import Site
from llmstack.oci.reference import Reference

# Docker's own arguments, which need no ARG and stay out of an image's history.
PROXY_ARGS = frozenset({"http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy"})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What was asked for: recipes, and how they are to differ from what image.yaml says.

    `bases` are replacements: under "" for the image that the chain starts from, else for a build stage or for a
    parent recipe of that name. `args` may hold Docker's proxy arguments. `files` come along in the context.
    """

    names: tuple[str, ...]
    variant: str | None = None
    tag: str | None = None
    bases: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes | Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to build: its recipe, what it stands on, and its names (the first is what children name)."""

    recipe: Recipe
    variant: Variant
    inputs: RenderInputs
    tags: tuple[str, ...]
    wanted: bool

    @property
    def title(self) -> str:
        """What messages call it: `hf-dev:cpu`."""
        return f"{self.recipe.name}:{self.variant.name}"

    def render(self) -> Rendered:
        """Return the Dockerfile and its context; raises UsageError."""
        return render(self.recipe, self.variant, self.inputs)


def image_names(recipe: Recipe, variant: Variant, namespace: str) -> tuple[str, ...]:
    """Return the full names of a variant's image."""
    prefix = f"{namespace.rstrip('/')}/" if namespace else ""
    return tuple(f"{prefix}{recipe.name}:{tag}" for tag in variant.tags)


def plan(
    recipes: Mapping[str, Recipe], wish: BuildRequest, site: Site, is_present: Callable[[str], bool]
) -> list[PlannedImage]:
    """Return the images to build, parents first.

    A parent is built unless its image is present, given by `bases`, or asked for by name; when the chain starts from
    another image than image.yaml says, what is present stands on something else and is built anew. Raises UsageError.
    """
    _check(recipes, wish, site)
    chosen: dict[str, tuple[Variant, bool]] = {}
    for name in wish.names:
        recipe = find(recipes, name)
        chosen[name] = (recipe.variant(wish.variant), True)
    for name in wish.names:
        _add_parents(recipes, name, chosen, wish, site, is_present)
    order = [name for name in build_order(recipes) if name in chosen]
    return [_target(recipes[name], *chosen[name], recipes, wish, site) for name in order]


def _add_parents(
    recipes: Mapping[str, Recipe],
    name: str,
    chosen: dict[str, tuple[Variant, bool]],
    wish: BuildRequest,
    site: Site,
    is_present: Callable[[str], bool],
) -> None:
    variant = chosen[name][0]
    for ancestor in reversed(lineage(recipes, name)[:-1]):
        variant = ancestor.variant(variant.parent)
        if ancestor.name in chosen:
            return
        if ancestor.name in wish.bases:
            return
        if "" not in wish.bases and is_present(image_names(ancestor, variant, site.namespace)[0]):
            return
        chosen[ancestor.name] = (variant, False)


def _target(
    recipe: Recipe, variant: Variant, wanted: bool, recipes: Mapping[str, Recipe], wish: BuildRequest, site: Site
) -> PlannedImage:
    if recipe.parent is None:
        base = wish.bases.get("") or variant.base or ""
    else:
        parent = recipes[recipe.parent]
        base = wish.bases.get(parent.name) or image_names(parent, parent.variant(variant.parent), site.namespace)[0]
    inputs = RenderInputs(
        base=base,
        stages={name: reference for name, reference in wish.bases.items() if name in variant.stages},
        args=wish.args,
        site=site,
        files=wish.files if wanted else {},
    )
    tags = (wish.tag,) if wanted and wish.tag else image_names(recipe, variant, site.namespace)
    return PlannedImage(recipe, variant, inputs, tags, wanted)


def _check(recipes: Mapping[str, Recipe], wish: BuildRequest, site: Site) -> None:
    if wish.tag and len(wish.names) > 1:
        raise UsageError("--tag names one image, but several are to be built", hint="build them one after the other")
    if wish.tag:
        _check_reference("--tag", wish.tag)
    for reference in wish.bases.values():
        _check_reference("--base", reference)
    if site.namespace:
        _check_reference("the namespace", f"{site.namespace.rstrip('/')}/image")
    chain = {recipe.name: recipe for name in wish.names for recipe in lineage(recipes, name)}
    variants = [variant for recipe in chain.values() for variant in recipe.variants.values()]
    _check_names("--build-arg", wish.args, {name for variant in variants for name in variant.args} | PROXY_ARGS)
    parents = {recipe.parent for recipe in chain.values() if recipe.parent}
    _check_names("--base", wish.bases, {name for variant in variants for name in variant.stages} | parents | {""})


def _check_reference(option: str, text: str) -> None:
    try:
        Reference.parse(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", hint=error.hint) from error


def _check_names(option: str, given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known and name.lower() not in known & PROXY_ARGS:
            names = ", ".join(sorted(known - PROXY_ARGS - {""})) or "none"
            raise UsageError(f"{option}: nothing here is named {name!r}", hint=f"there are {names}")
