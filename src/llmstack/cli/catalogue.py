"""`llmstack catalogue`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

catalogue = typer.Typer(help="Work with the catalogue: get_hf/models.md and get_hf/datasets.md.")


def _file(metavar: str, text: str) -> object:
    return typer.Argument(metavar=metavar, help=text, exists=True, dir_okay=False)


@catalogue.callback()
def _group() -> None:
    """Keep the name `merge`: Typer runs a single command without its name otherwise."""


@catalogue.command()
def merge(
    base: Annotated[Path, _file("BASE", "The common ancestor of both versions.")],
    ours: Annotated[Path, _file("OURS", "This branch's version; the result is written to it.")],
    theirs: Annotated[Path, _file("THEIRS", "The other branch's version.")],
) -> None:
    """Merge two versions of a catalogue by rows into OURS, as a git merge driver.

    git config merge.llmstack.driver 'llmstack catalogue merge %O %A %B'
    """
    from llmstack.errors import UnavailableError
    from llmstack.lists.catalogue import merge as merge_rows

    try:
        texts = [path.read_bytes().decode(errors="surrogateescape") for path in (base, ours, theirs)]
        merged = merge_rows(*texts)
        if merged is not None:
            ours.write_bytes(merged.encode(errors="surrogateescape"))
            return
        # Both sides changed lines that people wrote: git merge-file marks the conflicts.
        done = subprocess.run(["git", "merge-file", ours, base, theirs], check=False)  # noqa: S603, S607 - git itself has called us
    except OSError as error:
        raise UnavailableError(f"{ours}: cannot merge: {error.strerror}") from error
    raise typer.Exit(min(done.returncode, 1))
