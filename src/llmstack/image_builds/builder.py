"""`llmstack build`: from a wish to images in the engine, and on to a registry."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmstack.engine.docker_engine import Engine
from llmstack.engine.image_build import BuildSpec, build_image, push_image, tag_image
from llmstack.engine.squash import require_library, squash_image
from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_plan import PROXY_ARGS, BuildRequest, PlannedImage, plan
from llmstack.image_builds.own_wheel import own_wheel
from llmstack.image_builds.recipe import Recipe
from llmstack.image_builds.recipe_folder import images_folder, load_recipes
from llmstack.image_builds.site_settings import Site, logins
from llmstack.image_builds.wheel_download import WheelRequest, download_wheels
from llmstack.image_builds.wheel_index import make_index, read_wheel
from llmstack.oci.reference import DOCKER_HUB, Reference
from llmstack.oci.spec import Platform
from llmstack.reporting import Reporter, human_time

PIP_OFFLINE = "pip-offline"
# The recipe that holds llmstack itself.
HUB = "hub"
# The recipes that `llmstack ferry --prepare` builds: they need a repo and a script.
PREPARED = frozenset({"model", "dataset"})


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build, as the command line says it."""

    platform: str | None = None
    no_cache: bool = False
    pull: bool = False
    squash: bool = False
    push: bool = False

    def __post_init__(self) -> None:
        if self.platform:
            Platform.parse(self.platform)


@dataclass(frozen=True, slots=True)
class Built:
    """An image that was built: its id, its names, and for each name that was pushed the digest in the registry."""

    recipe: str
    variant: str
    image: str
    tags: tuple[str, ...]
    pushed: Mapping[str, str]
    seconds: float


def dockerfiles(wish: BuildRequest, site: Site) -> str:
    """Return the Dockerfiles of what was asked for, one after the other; needs no engine. Raises UsageError."""
    targets = plan(load_recipes(images_folder()), wish, site, lambda _: True)
    return "\n".join(target.render().dockerfile for target in targets)


def build(
    wish: BuildRequest, site: Site, options: BuildOptions, reporter: Reporter, wheels: WheelRequest | None = None
) -> list[Built]:
    """Build what was asked for, parents first; return what was asked for.

    Raises UsageError before anything is built if a setting is wrong, and LlmstackError, NotFoundError,
    NotAuthorizedError or UnavailableError as building and pushing do.
    """
    recipes = load_recipes(images_folder())
    _check(wish, recipes, wheels)
    if options.squash:
        require_library()
    # Everything is rendered once before anything is asked of an engine: a mistake in the last recipe shows at once.
    for target in plan(recipes, wish, site, lambda _: False):
        target.render()
        if options.push and target.wanted:
            _check_names(target)
    if HUB in wish.names:
        name, wheel = own_wheel()
        wish = replace(wish, files={**wish.files, f"wheel/{name}": wheel})
    with Engine() as engine, tempfile.TemporaryDirectory(prefix="llmstack-wheels-") as folder:
        if wheels:
            wish = replace(wish, files={**wish.files, **_index_files(wheels, site, Path(folder), reporter)})
        targets = plan(recipes, wish, site, engine.has_image)
        jobs = [job_for(target, site, options) for target in targets]
        built = [_build(engine, target, job, options, reporter) for target, job in zip(targets, jobs, strict=True)]
    return [result for result, target in zip(built, targets, strict=True) if target.wanted]


def job_for(target: PlannedImage, site: Site, options: BuildOptions, stage: str | None = None) -> BuildSpec:
    """Return what the engine is to do for a target."""
    rendered = target.render()
    proxies = {name: value for name, value in target.inputs.args.items() if name.lower() in PROXY_ARGS}
    build_args = {**site.proxies, **proxies}
    return BuildSpec(
        title=target.title,
        dockerfile=rendered.dockerfile,
        origins=tuple(map(str, rendered.origins)),
        files=rendered.files,
        build_args=build_args,
        secrets=logins(build_args.values()),
        stage=stage,
        platform=options.platform,
        network=site.build_network or None,
        no_cache=options.no_cache,
        # A parent that was just built, or is here under a name of no registry, cannot be pulled.
        pull=options.pull and target.recipe.parent is None,
    )


def _index_files(wheels: WheelRequest, site: Site, folder: Path, reporter: Reporter) -> dict[str, bytes | Path]:
    """Download the wheels into `folder` and return an index of them, as files of the context."""
    found = download_wheels(wheels, site, folder, reporter)
    if not found:
        raise UsageError("the requirements ask for no package", hint="a package index must hold something")
    return {f"index/{name}": content for name, content in make_index(map(read_wheel, found)).items()}


def _build(engine: Engine, target: PlannedImage, job: BuildSpec, options: BuildOptions, reporter: Reporter) -> Built:
    began = time.monotonic()
    if options.platform and not job.pull:
        for base in (target.inputs.base, *{**target.variant.stages, **target.inputs.stages}.values()):
            if engine.has_image(base):
                _check_platform(engine, base, base, options.platform)
    image = build_image(engine, job, reporter)
    if options.platform:
        _check_platform(engine, image, target.title, options.platform)
    if options.squash and target.wanted:
        # The base's own layers stay: other images share them.
        image = squash_image(engine, image, target.tags[0], reporter, from_layer=target.inputs.base).image
    tag_image(engine, image, target.tags)
    reporter.note(f"{target.title} is {', '.join(target.tags)} ({human_time(time.monotonic() - began)})")
    push = options.push and target.wanted
    pushed = {name: push_image(engine, name, reporter) for name in target.tags} if push else {}
    seconds = round(time.monotonic() - began, 3)
    return Built(target.recipe.name, target.variant.name, image, target.tags, pushed, seconds)


def _check_platform(engine: Engine, image: str, name: str, wanted: str) -> None:
    """Raise LlmstackError if an image is for another platform: the engine takes what it has under a base's name."""
    platform, found = Platform.parse(wanted), engine.platform(image)
    if (found.os, found.architecture) != (platform.os, platform.architecture):
        raise LlmstackError(
            f"{name} is for {found}, not for {platform}",
            hint="--pull fetches the base for that platform, --base takes another one",
        )


def _check_names(target: PlannedImage) -> None:
    """Raise UsageError if an image would be pushed to where only Docker's own images are."""
    for tag in target.tags:
        name = Reference.parse(tag)
        if name.registry == DOCKER_HUB and name.repository.startswith("library/"):
            raise UsageError(
                f"{tag} names no registry to push {target.title} to",
                hint="set namespace (in llmstack.yaml, or LLMSTACK_NAMESPACE), or give --tag REGISTRY/PATH:TAG",
            )


def _check(wish: BuildRequest, recipes: Mapping[str, Recipe], wheels: WheelRequest | None) -> None:
    for name in PREPARED & set(wish.names):
        raise UsageError(
            f"the {name} image is made from a repo by a script",
            hint="llmstack ferry REPO_ID --prepare get_hf/prepare.sh builds it",
        )
    if wheels and PIP_OFFLINE not in wish.names:
        raise UsageError(
            f"--requirements is for {PIP_OFFLINE}", hint=f"llmstack build {PIP_OFFLINE} --requirements FILE"
        )
    if PIP_OFFLINE in wish.names and PIP_OFFLINE in recipes and not wheels:
        raise UsageError(f"{PIP_OFFLINE} needs to know which packages", hint="add --requirements FILE")
