"""`llmstack build`, `images` and `squash`."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import DebugOption, JsonOption, ProgressOption, ProgressStyle, QuietOption
from llmstack.errors import UsageError


class BuilderChoice(StrEnum):
    """The values of --builder."""

    AUTO = "auto"
    CLASSIC = "classic"
    BUILDX = "buildx"


def build(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Images to build; see `llmstack images`.")],
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Variant (default: the first of the recipe).")
    ] = None,
    base: Annotated[
        list[str],
        typer.Option(
            "--base",
            metavar="[STAGE=]REF",
            help="Base image of the first recipe, or image for a build stage or parent. Repeatable.",
        ),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    tag: Annotated[str | None, typer.Option("--tag", metavar="REF", help="Name of the image.")] = None,
    build_arg: Annotated[
        list[str], typer.Option("--build-arg", metavar="K=V", help="Value of a build argument. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    ca_cert: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="PEM file with certificate authorities to trust.")
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(
            "--platform",
            metavar="OS/ARCH",
            help="Target platform, such as linux/arm64; several with commas and --push.",
        ),
    ] = None,
    builder: Annotated[
        BuilderChoice | None,
        typer.Option("--builder", help="Builder (default: auto, which takes docker buildx if it is installed)."),
    ] = None,
    attest: Annotated[
        list[str],
        typer.Option(
            "--attest", metavar="provenance|sbom[=IMAGE]", help="Attestation to push with the image. Repeatable."
        ),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do not use the build cache.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Pull the newest base image.")] = False,
    squash: Annotated[bool, typer.Option("--squash", help="Squash the layers above the base into one.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Push the named images.")] = False,
    requirements: Annotated[
        list[Path], typer.Option("--requirements", "-r", metavar="FILE", help="pip-offline: requirements. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    for_image: Annotated[
        list[str],
        typer.Option(
            "--for",
            metavar="RECIPE[:VARIANT]",
            help="pip-offline: the locked packages of an image, so that it can be built from this index. Repeatable.",
        ),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    python: Annotated[
        list[str], typer.Option("--python", metavar="3.N", help="pip-offline: target Python version. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    platform_tag: Annotated[
        list[str],
        typer.Option(
            "--platform-tag",
            metavar="TAG",
            help="pip-offline: target platform, such as manylinux_2_28_x86_64. Repeatable.",
        ),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    export: Annotated[
        Path | None,
        typer.Option("--export-context", metavar="DIR", help="Write Dockerfile and context for another builder."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the Dockerfiles and build nothing.")] = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Build images for training and serving, parents first.

    Mirrors, proxies and certificate authorities are set in llmstack.yaml.
    """
    from llmstack.cli.build_output import parse_pairs, print_built, print_exported
    from llmstack.image_builds import builder as builds
    from llmstack.image_builds.build_environment import BuildEnvironment
    from llmstack.image_builds.build_plan import BuildRequest
    from llmstack.image_builds.wheel_download import WheelRequest
    from llmstack.reporting import make_reporter
    from llmstack.settings import load_settings

    environment = BuildEnvironment.from_settings(
        load_settings({"ca_cert": ca_cert, "builder": builder and builder.value})
    )
    request = BuildRequest(tuple(names), variant, tag, parse_pairs(base, unnamed=True), parse_pairs(build_arg))
    options = builds.BuildOptions(
        platforms=tuple(filter(None, (platform or "").split(","))),
        no_cache=no_cache,
        pull=pull,
        squash=squash,
        push=push,
        attestations=tuple(attest),
    )
    if (python or platform_tag) and not requirements:
        raise UsageError("--python and --platform-tag require --requirements")
    if dry_run:
        sys.stdout.write(builds.dockerfiles(request, environment))
        return
    if requirements or for_image:
        wheels = WheelRequest(tuple(requirements), tuple(python), tuple(platform_tag), tuple(for_image))
        request = replace(request, wheels=wheels)
    if export:
        if push or squash:
            raise UsageError("--export-context builds nothing: it cannot be combined with --push or --squash")
        exported = builds.export_context(request, environment, export, make_reporter(progress.value, quiet=quiet))
        print_exported(exported, as_json=as_json)
        return
    results = builds.build(request, environment, options, make_reporter(progress.value, quiet=quiet))
    print_built(results, as_json=as_json)


def images(as_json: JsonOption = False, _debug: DebugOption = False) -> None:
    """List the recipes that `llmstack build` can build, with parents, variants and tags."""
    from llmstack.cli.build_output import print_recipes
    from llmstack.image_builds.build_environment import BuildEnvironment
    from llmstack.image_builds.recipe import all_recipes
    from llmstack.settings import load_settings

    environment = BuildEnvironment.from_settings(load_settings())
    print_recipes(all_recipes(environment.settings), environment, as_json=as_json)


def squash(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image in the Docker Engine.")],
    tag: Annotated[str, typer.Option("--tag", metavar="REF", help="Name of the squashed image.")],
    from_layer: Annotated[
        str | None,
        typer.Option("--from-layer", metavar="N|IMAGE", help="Squash the last N layers, or those above an image."),
    ] = None,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Squash the layers of an image into one and report the size saved. Requires the extra `squash`."""
    from llmstack.engine.docker_engine import Engine
    from llmstack.engine.squash import squash_image
    from llmstack.reporting import make_reporter

    with Engine() as engine:
        squash_image(engine, image, tag, make_reporter(progress.value, quiet=quiet), from_layer)
