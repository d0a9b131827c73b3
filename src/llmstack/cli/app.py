"""The command line as a whole: which verbs there are, and the way in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from llmstack import __version__
from llmstack.cli.build import build
from llmstack.cli.catalogue import catalogue
from llmstack.cli.exit_codes import EDGE
from llmstack.cli.extract import extract
from llmstack.cli.ferry import ferry
from llmstack.cli.hub import hub
from llmstack.cli.images import images
from llmstack.cli.inspection import inspect, list_images, verify
from llmstack.cli.squash import squash

app = typer.Typer(
    name="llmstack",
    help="Carry large language models to places the internet does not reach.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"llmstack {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Carry large language models to places the internet does not reach."""


app.command()(ferry)
app.command()(extract)
app.command()(hub)
app.command("list")(list_images)
app.command()(inspect)
app.command()(verify)
app.command()(build)
app.command()(images)
app.command()(squash)
app.add_typer(catalogue, name="catalogue")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own by default) and return its exit code."""
    return EDGE.run(lambda: app(argv, prog_name="llmstack"))
