"""Plan a build: which images, from which bases, with which names. The only outside question: is an image present?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.errors import UsageError
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.recipe import Recipe, Variant, build_order, lineage
from llmstack.image_builds.wheel_download import WheelRequest
from llmstack.oci.reference import Reference

# Docker's predefined build arguments. They need no ARG instruction and do not enter an image's history.
PROXY_ARGS = frozenset({"http_proxy", "https_proxy", "no_proxy", "ftp_proxy", "all_proxy"})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """The requested recipes, and what replaces the values of their image.yaml.

    `bases` maps a build stage or a parent recipe to another image; the key "" is the base of the root recipe. `args`
    may include Docker's proxy arguments. `files` are added to the build context. `wheels` are for pip-offline. With a
    `stamp`, each requested image gets one more tag, which ends in it.
    """

    names: tuple[str, ...]
    variant: str | None = None
    tag: str | None = None
    bases: Mapping[str, str] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    wheels: WheelRequest | None = None
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """One image to build.

    `base` is the image of the last stage, `stages` are the images of the other stages by name. `args` replace the
    variant's. `files` are added to the build context. Child recipes use the first of `tags` as their base. An image
    that was not `requested` is a missing parent.
    """

    recipe: Recipe
    variant: Variant
    environment: BuildEnvironment
    base: str
    stages: Mapping[str, str]
    args: Mapping[str, str]
    files: Mapping[str, bytes | Path]
    tags: tuple[str, ...]
    requested: bool

    @property
    def title(self) -> str:
        """The image's name in messages: `hf-dev:cpu`."""
        return f"{self.recipe.name}:{self.variant.name}"


def image_names(recipe: Recipe, variant: Variant, namespace: str, stamp: str = "") -> tuple[str, ...]:
    """Return the full names of a variant's image; with a `stamp`, also `cpu-STAMP`, or `STAMP` for `latest`."""
    prefix = f"{namespace.rstrip('/')}/" if namespace else ""
    tags = variant.tags
    if stamp:
        tags += (stamp if tags[0] == "latest" else f"{tags[0]}-{stamp}",)
    return tuple(f"{prefix}{recipe.name}:{tag}" for tag in tags)


def plan_images(
    recipes: Mapping[str, Recipe],
    request: BuildRequest,
    environment: BuildEnvironment,
    is_present: Callable[[str], bool],
) -> list[ImagePlan]:
    """Return the images to build, parents first.

    A parent is built unless it is present or replaced by `bases`. If the root's base is replaced, every parent is
    built: a present one has another base. Raises UsageError.
    """
    _check(recipes, request, environment)
    requested = [recipes[name] for name in request.names]
    known = {variant for recipe in requested for variant in recipe.variants}
    variants: dict[str, Variant] = {}
    for recipe in requested:
        # --variant chooses among several: a recipe with one variant uses it, if another recipe has the requested one.
        has_one = len(recipe.variants) == 1 and request.variant in known
        variants[recipe.name] = recipe.variant(None if has_one else request.variant)
    for name in request.names:
        variant = variants[name]
        for parent in reversed(lineage(recipes, name)[:-1]):
            variant = parent.variant(variant.parent)
            if parent.name in variants or parent.name in request.bases:
                break
            if "" not in request.bases and is_present(image_names(parent, variant, environment.namespace)[0]):
                break
            variants[parent.name] = variant
    order = [name for name in build_order(recipes) if name in variants]
    return [_plan_image(recipes, name, variants[name], request, environment) for name in order]


def _plan_image(
    recipes: Mapping[str, Recipe], name: str, variant: Variant, request: BuildRequest, environment: BuildEnvironment
) -> ImagePlan:
    recipe, requested = recipes[name], name in request.names
    names = image_names(recipe, variant, environment.namespace, request.stamp if requested else "")
    if recipe.parent is None:
        base = request.bases.get("") or variant.base or ""
    else:
        parent = recipes[recipe.parent]
        parents = image_names(parent, parent.variant(variant.parent), environment.namespace)
        base = request.bases.get(parent.name) or parents[0]
    return ImagePlan(
        recipe=recipe,
        variant=variant,
        environment=environment,
        base=base,
        stages={
            **variant.stages,
            **{stage: image for stage, image in request.bases.items() if stage in variant.stages},
        },
        args=request.args,
        files=request.files if requested else {},
        tags=(request.tag,) if requested and request.tag else names,
        requested=requested,
    )


def _check(recipes: Mapping[str, Recipe], request: BuildRequest, environment: BuildEnvironment) -> None:
    chain = {recipe.name: recipe for name in request.names for recipe in lineage(recipes, name)}
    if request.tag and len(request.names) > 1:
        raise UsageError("--tag: names one image, but several are requested", hint="run one build per image")
    if request.tag:
        _check_reference("--tag", request.tag)
    for reference in request.bases.values():
        _check_reference("--base", reference)
    if environment.namespace:
        _check_reference("namespace", f"{environment.namespace.rstrip('/')}/image")
    variants = [variant for recipe in chain.values() for variant in recipe.variants.values()]
    _check_names("--build-arg", request.args, {name for variant in variants for name in variant.args} | PROXY_ARGS)
    parents = {recipe.parent for recipe in chain.values() if recipe.parent}
    _check_names("--base", request.bases, {name for variant in variants for name in variant.stages} | parents | {""})


def _check_reference(option: str, reference: str) -> None:
    try:
        Reference.parse(reference)
    except UsageError as error:
        raise UsageError(f"{option}: {error.message}", hint=error.hint) from error


def _check_names(option: str, given: Iterable[str], known: set[str]) -> None:
    for name in given:
        if name not in known and name.lower() not in known & PROXY_ARGS:
            names = ", ".join(sorted(known - PROXY_ARGS - {""})) or "none"
            raise UsageError(f"{option}: unknown name {name!r}", hint=f"known names: {names}")
