"""`llmstack build`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.exit_codes import EDGE
from llmstack.cli.options import DebugOption, JsonOption, ProgressOption, ProgressStyle, QuietOption
from llmstack.errors import UsageError


def build(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Which images; `llmstack images` lists them.")],
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Which variant; a recipe's first if none is named.")
    ] = None,
    base: Annotated[
        list[str],
        typer.Option(
            "--base",
            metavar="[STAGE=]REF",
            help="Another image at the root of the chain, or for a build stage or a parent. Repeatable.",
        ),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    tag: Annotated[str | None, typer.Option("--tag", metavar="REF", help="The image's name.")] = None,
    build_arg: Annotated[
        list[str], typer.Option("--build-arg", metavar="K=V", help="Another value for a recipe's argument. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    ca_cert: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="Certificate authorities to trust, as PEM.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="For which platform, as linux/arm64.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    pull: Annotated[bool, typer.Option("--pull", help="Ask the registry for a newer base image.")] = False,
    squash: Annotated[bool, typer.Option("--squash", help="Make one layer of those above the base.")] = False,
    push: Annotated[bool, typer.Option("--push", help="Push the images that were named.")] = False,
    requirements: Annotated[
        list[Path], typer.Option("--requirements", "-r", metavar="FILE", help="pip-offline: what to hold. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    python: Annotated[
        list[str], typer.Option("--python", metavar="3.N", help="pip-offline: for which Python. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    platform_tag: Annotated[
        list[str],
        typer.Option("--platform-tag", metavar="TAG", help="pip-offline: for what machine, manylinux_2_28_x86_64."),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the Dockerfiles, and do nothing.")] = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Build images to train and serve models with, parents first.

    What a private site needs (mirrors, proxies, its certificate authority) is read from llmstack.yaml.
    """
    EDGE.debug = debug
    from llmstack.cli.build_output import parse_pairs, print_built
    from llmstack.image_builds import builder
    from llmstack.image_builds.build_environment import BuildEnvironment
    from llmstack.image_builds.build_plan import BuildRequest
    from llmstack.image_builds.wheel_download import WheelRequest
    from llmstack.reporting import make_reporter
    from llmstack.settings import load_settings

    environment = BuildEnvironment.from_settings(load_settings({"ca_cert": ca_cert}))
    request = BuildRequest(tuple(names), variant, tag, parse_pairs(base, unnamed=True), parse_pairs(build_arg))
    options = builder.BuildOptions(platform=platform, no_cache=no_cache, pull=pull, squash=squash, push=push)
    if (python or platform_tag) and not requirements:
        raise UsageError("--python and --platform-tag go with --requirements")
    if dry_run:
        sys.stdout.write(builder.dockerfiles(request, environment))
        return
    if requirements:
        request = replace(request, wheels=WheelRequest(tuple(requirements), tuple(python), tuple(platform_tag)))
    results = builder.build(request, environment, options, make_reporter(progress.value, quiet=quiet))
    print_built(results, as_json=as_json)
