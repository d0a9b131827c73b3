"""The command line: its commands and its entry point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from llmstack import __version__
from llmstack.cli.build import build, images, squash
from llmstack.cli.catalogue import catalogue
from llmstack.cli.extract import extract
from llmstack.cli.ferry import ferry
from llmstack.cli.hub import hub
from llmstack.cli.inspection import inspect, list_images, verify
from llmstack.cli.prune import prune
from llmstack.cli.runner import Invocation, run
from llmstack.cli.save import copy, inventory, load, save
from llmstack.cli.serve import serve
from llmstack.cli.sign import sign

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


_COMMANDS: dict[str, Callable[..., None]] = {
    "ferry": ferry,
    "extract": extract,
    "hub": hub,
    "serve": serve,
    "list": list_images,
    "inspect": inspect,
    "verify": verify,
    "save": save,
    "load": load,
    "inventory": inventory,
    "copy": copy,
    "prune": prune,
    "sign": sign,
    "build": build,
    "images": images,
    "squash": squash,
}
for _name, _command in _COMMANDS.items():
    # One line per paragraph: Typer keeps the line breaks of a docstring, and the width of terminals differs.
    _paragraphs = [" ".join(text.split()) for text in (_command.__doc__ or "").split("\n\n")]
    app.command(_name, help="\n\n".join(_paragraphs))(_command)
app.add_typer(catalogue, name="catalogue")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the arguments of this process) and return its exit code."""
    invocation = Invocation()
    return run(lambda: app(argv, prog_name="llmstack", obj=invocation), invocation)
