"""`llmstack squash`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmstack.cli.options import DebugOption, ProgressOption, ProgressStyle, QuietOption


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
