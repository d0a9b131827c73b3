"""`llmstack build`: build the requested images in the Docker Engine and push them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from llmstack.engine.build_context import write_directory
from llmstack.engine.build_steps import Builder, BuildSpec
from llmstack.engine.buildx import Buildx
from llmstack.engine.docker_build import push_image, tag_image
from llmstack.engine.docker_engine import Engine
from llmstack.engine.squash import require_library, squash_image
from llmstack.errors import LlmstackError, UsageError
from llmstack.image_builds.build_environment import BuildEnvironment, proxy_credentials
from llmstack.image_builds.build_plan import PROXY_ARGS, BuildRequest, ImagePlan, plan_images
from llmstack.image_builds.dockerfile import render
from llmstack.image_builds.lock_download import download_locked, locked_packages
from llmstack.image_builds.own_wheel import own_wheel
from llmstack.image_builds.recipe import Recipe, all_recipes
from llmstack.image_builds.wheel_download import WheelRequest, download_wheels
from llmstack.image_builds.wheel_index import make_index, read_package
from llmstack.oci.reference import DOCKER_HUB, Reference
from llmstack.oci.spec import Platform
from llmstack.reporting import Reporter, human_time

# The time of the build, in the tag that never moves.
STAMP = "%Y%m%d-%H%M%S"
PIP_OFFLINE = "pip-offline"
# The recipe whose image contains llmstack.
HUB = "hub"
# The recipes that only `llmstack ferry --prepare` builds: they need a repo and a script.
PREPARED = frozenset({"model", "dataset"})
# The values of docker's option --attest. Without mode=min, a provenance would contain the build arguments.
ATTESTATIONS = {"provenance": "type=provenance,mode=min", "sbom": "type=sbom"}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build; raises UsageError for invalid or contradictory options.

    Several `platforms`, and `attestations` (`provenance`, `sbom`, `sbom=GENERATOR`), are for a registry: with `push`.
    """

    platforms: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    squash: bool = False
    push: bool = False
    attestations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for platform in self.platforms:
            Platform.parse(platform)
        for attestation in self.attestations:
            if attestation.partition("=")[0] not in ATTESTATIONS or attestation.startswith("provenance="):
                raise UsageError(f"--attest {attestation}: must be provenance, sbom or sbom=GENERATOR_IMAGE")
        if self.needs_buildx and not self.push:
            raise UsageError(f"{self.needs_buildx}: the result can only be pushed", hint="add --push")
        if self.needs_buildx and self.squash:
            raise UsageError(f"{self.needs_buildx}: cannot be combined with --squash")

    @property
    def platform(self) -> str | None:
        """The only platform that was named."""
        return self.platforms[0] if len(self.platforms) == 1 else None

    @property
    def needs_buildx(self) -> str:
        """What only buildx can do; empty: nothing."""
        if len(self.platforms) > 1:
            return f"--platform {','.join(self.platforms)}"
        return f"--attest {self.attestations[0]}" if self.attestations else ""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A built image: its id, its names, and the registry's digest of each pushed name."""

    recipe: str
    variant: str
    image: str
    tags: tuple[str, ...]
    pushed: Mapping[str, str]
    seconds: float
    builder: str


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A build context in a directory, the names of its image, and the image that it builds on."""

    recipe: str
    variant: str
    context: str
    tags: tuple[str, ...]
    base: str


def dockerfiles(request: BuildRequest, environment: BuildEnvironment) -> str:
    """Return the Dockerfiles of the requested images, without a Docker Engine. Raises UsageError."""
    images = plan_images(all_recipes(environment.settings), request, environment, lambda _: True)
    buildkit = _renders_for_buildkit(environment)
    return "\n".join(render(image, buildkit=buildkit).dockerfile for image in images)


def export_context(
    request: BuildRequest, environment: BuildEnvironment, folder: Path, reporter: Reporter
) -> ExportResult:
    """Write the Dockerfile and the build context of one image into a new directory, without a Docker Engine.

    Any builder can build it: base images have their full names. Raises UsageError, and the errors of a download.
    """
    recipes = all_recipes(environment.settings)
    _check_request(request, recipes)
    if len(request.names) > 1:
        raise UsageError("--export-context: the directory holds one context, but several images are requested")
    with _with_files(request, environment, reporter) as completed:
        [image] = plan_images(recipes, completed, environment, lambda _: True)
        if image.recipe.parent is None:
            image = replace(image, base=_full_name(image.base))
        else:
            reporter.note(f"{image.title}: its base {image.base} must exist where the context is built")
        image = replace(image, stages={stage: _full_name(name) for stage, name in image.stages.items()})
        rendered = render(image, buildkit=_renders_for_buildkit(environment))
        write_directory(rendered.dockerfile, rendered.files, folder)
    reporter.note(f"{image.title}: build it with: docker buildx build --tag {image.tags[0]} {folder}")
    return ExportResult(image.recipe.name, image.variant.name, str(folder), image.tags, image.base)


def build(
    request: BuildRequest, environment: BuildEnvironment, options: BuildOptions, reporter: Reporter
) -> list[BuildResult]:
    """Build the requested images and their missing parents; return the results of the requested ones.

    Raises UsageError before the first build if a setting or a recipe is invalid. Raises LlmstackError, NotFoundError,
    NotAuthorizedError or UnavailableError if a build or a push fails.
    """
    recipes = all_recipes(environment.settings)
    _check_request(request, recipes)
    if options.squash:
        require_library()
    if options.push:
        # The other tags move with each push. This one stays, so that a deployment can name what it has tested.
        request = replace(request, stamp=f"{datetime.now(UTC):{STAMP}}")
    builder = environment.builder(options.needs_buildx)
    # Render everything once before the first build: an error in the last recipe shows immediately.
    for image in plan_images(recipes, request, environment, lambda _: False):
        render(image, buildkit=builder.buildkit)
        if options.push and image.requested:
            _check_push_names(image)
            _check_platforms(image, options)
    with Engine() as engine, _with_files(request, environment, reporter) as completed:
        images = plan_images(recipes, completed, environment, engine.has_image)
        reporter.note(f"building with {builder.name}")
        specs = [build_spec(image, options, builder) for image in images]
        if isinstance(builder, Buildx) and options.needs_buildx:
            _check_parents(images, options)
            return [_publish(builder, *each, options, reporter) for each in zip(images, specs, strict=True)]
        results = [_build(engine, builder, *each, options, reporter) for each in zip(images, specs, strict=True)]
    return [result for result, image in zip(results, images, strict=True) if image.requested]


def build_spec(image: ImagePlan, options: BuildOptions, builder: Builder, stage: str | None = None) -> BuildSpec:
    """Render a planned image into the builder's specification; `stage` is the last stage to build."""
    rendered = render(image, buildkit=builder.buildkit)
    proxies = {name: value for name, value in image.args.items() if name.lower() in PROXY_ARGS}
    build_args = {**image.environment.proxies, **proxies}
    return BuildSpec(
        title=image.title,
        dockerfile=rendered.dockerfile,
        origins=tuple(map(str, rendered.origins)),
        files=rendered.files,
        build_args=build_args,
        secrets=proxy_credentials(build_args.values()),
        secret_files=image.environment.secret_files if builder.buildkit else {},
        stage=stage,
        platforms=options.platforms,
        network=image.environment.settings.build_network or None,
        no_cache=options.no_cache,
        # A parent is local: it was just built, or has a name without a registry. It cannot be pulled.
        pull=options.pull and image.recipe.parent is None,
    )


@contextmanager
def _with_files(request: BuildRequest, environment: BuildEnvironment, reporter: Reporter) -> Iterator[BuildRequest]:
    """Yield the request with the files that no recipe contains: llmstack's own wheel, and the requested wheels."""
    files = dict(request.files)
    if HUB in request.names:
        name, wheel = own_wheel()
        files[f"wheel/{name}"] = wheel
    with tempfile.TemporaryDirectory(prefix="llmstack-wheels-") as folder:
        if request.wheels:
            files |= _index_files(request.wheels, environment, Path(folder), reporter)
        yield replace(request, files=files)


def _full_name(image: str) -> str:
    """Return an image's name with its registry: without one, podman and buildah may ask which one is meant."""
    return str(Reference.parse(image))


def _index_files(
    wheels: WheelRequest, environment: BuildEnvironment, folder: Path, reporter: Reporter
) -> dict[str, bytes | Path]:
    """Download the packages into `folder` and return their package index as context files."""
    recipes = all_recipes(environment.settings)
    locks = [packages for image in wheels.images for packages in locked_packages(recipes, image)]
    files, work = folder / "files", folder / "work"
    files.mkdir()
    work.mkdir()
    download_wheels(wheels, environment, files, reporter)
    for packages in locks:
        download_locked(packages, environment, files, work, reporter)
    paths = sorted(files.iterdir())
    if not paths:
        raise UsageError("--requirements: names no package", hint="add at least one package to the file")
    return {f"index/{name}": content for name, content in make_index(map(read_package, paths)).items()}


def _publish(
    builder: Buildx, image: ImagePlan, spec: BuildSpec, options: BuildOptions, reporter: Reporter
) -> BuildResult:
    """Build an image for a registry: the Docker Engine may not be able to store it."""
    began = time.monotonic()
    attestations = [
        ATTESTATIONS[name] + (f",generator={value}" if value else "")
        for name, _, value in (each.partition("=") for each in options.attestations)
    ]
    digest = builder.publish(spec, image.tags, attestations, reporter)
    return _result(image, digest, dict.fromkeys(image.tags, digest), began, builder)


def _result(image: ImagePlan, built: str, pushed: Mapping[str, str], began: float, builder: Builder) -> BuildResult:
    seconds = round(time.monotonic() - began, 3)
    return BuildResult(image.recipe.name, image.variant.name, built, image.tags, pushed, seconds, builder.name)


def _build(
    engine: Engine, builder: Builder, image: ImagePlan, spec: BuildSpec, options: BuildOptions, reporter: Reporter
) -> BuildResult:
    began = time.monotonic()
    if options.platform and not spec.pull:
        for base in (image.base, *image.stages.values()):
            if engine.has_image(base):
                _check_platform(engine, base, base, options.platform)
    built = builder.build(engine, spec, reporter)
    if options.platform:
        _check_platform(engine, built, image.title, options.platform)
    if options.squash and image.requested:
        # Keep the base's layers: other images share them.
        built = squash_image(engine, built, image.tags[0], reporter, from_layer=image.base).image
    tag_image(engine, built, image.tags)
    reporter.note(f"{image.title} is {', '.join(image.tags)} ({human_time(time.monotonic() - began)})")
    push = options.push and image.requested
    pushed = {name: push_image(engine, name, reporter) for name in image.tags} if push else {}
    return _result(image, built, pushed, began, builder)


def _renders_for_buildkit(environment: BuildEnvironment) -> bool:
    """Tell whether a Dockerfile for other builders has BuildKit's mounts: only if buildx was named."""
    if environment.secret_files and environment.settings.builder != "buildx":
        names = " and ".join(environment.secret_files)
        raise UsageError(f"{names}: a Dockerfile can only read it as a build secret", hint="use --builder buildx")
    return environment.settings.builder == "buildx"


def _check_platforms(image: ImagePlan, options: BuildOptions) -> None:
    """Raise UsageError if a recipe does not support one of several platforms."""
    known = image.variant.platforms
    for platform in options.platforms if len(options.platforms) > 1 else ():
        if platform not in known:
            raise UsageError(
                f"{image.title}: does not support {platform}", hint=f"supported platforms: {', '.join(known)}"
            )


def _check_parents(images: Sequence[ImagePlan], options: BuildOptions) -> None:
    """Raise UsageError for a missing parent: the next image needs it in the registry."""
    for image in images:
        if not image.requested:
            raise UsageError(
                f"{image.title}: with {options.needs_buildx}, a parent must be in the registry",
                hint=f"push it first, or name it too: llmstack build {image.recipe.name} …",
            )


def _check_platform(engine: Engine, image: str, name: str, requested: str) -> None:
    """Raise LlmstackError for an image of another platform: the engine uses any local image with the base's name."""
    platform, found = Platform.parse(requested), engine.platform(image)
    if (found.os, found.architecture) != (platform.os, platform.architecture):
        raise LlmstackError(
            f"{name}: wrong platform: {found}, not {platform}",
            hint="--pull fetches the base for that platform, --base names another one",
        )


def _check_push_names(image: ImagePlan) -> None:
    """Raise UsageError if an image would be pushed to Docker Hub's official images."""
    for tag in image.tags:
        name = Reference.parse(tag)
        if name.registry == DOCKER_HUB and name.repository.startswith("library/"):
            raise UsageError(
                f"{tag}: cannot push {image.title}: the name has no registry",
                hint="set namespace (in llmstack.yaml, or LLMSTACK_NAMESPACE), or give --tag REGISTRY/PATH:TAG",
            )


def _check_request(request: BuildRequest, recipes: Mapping[str, Recipe]) -> None:
    for name in sorted(PREPARED.intersection(request.names)):
        raise UsageError(
            f"{name}: cannot be built without a repo and a script",
            hint="run llmstack ferry REPO_ID --prepare SCRIPT",
        )
    if request.wheels and PIP_OFFLINE not in request.names:
        raise UsageError(
            f"--requirements and --for: only for {PIP_OFFLINE}",
            hint=f"run llmstack build {PIP_OFFLINE} --requirements FILE",
        )
    for image in request.wheels.images if request.wheels else ():
        locked_packages(recipes, image)
    if PIP_OFFLINE in request.names and PIP_OFFLINE in recipes and not request.wheels:
        raise UsageError(
            f"{PIP_OFFLINE}: needs a list of packages", hint="add --requirements FILE or --for RECIPE:VARIANT"
        )
