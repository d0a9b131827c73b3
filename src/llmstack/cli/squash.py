"""`llmstack squash`."""

from __future__ import annotations

from typing import Annotated

import typer

from llmstack.cli.exit_codes import EDGE
from llmstack.cli.options import DebugOption, ProgressOption, ProgressStyle, QuietOption


def squash(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image in the Docker engine.")],
    tag: Annotated[str, typer.Option("--tag", metavar="REF", help="The name of the squashed image.")],
    from_layer: Annotated[
        str | None,
        typer.Option("--from-layer", metavar="N|IMAGE", help="Squash the last N layers, or those above an image."),
    ] = None,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Squash an image's layers into one, and say how much that saved. Needs the extra `squash`."""
    EDGE.debug = debug
    from llmstack.engine.docker_engine import Engine
    from llmstack.engine.squash import squash_image
    from llmstack.reporting import make_reporter

    with Engine() as engine:
        squash_image(engine, image, tag, make_reporter(progress.value, quiet=quiet), from_layer)
