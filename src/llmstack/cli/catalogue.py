"""`llmstack catalogue`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

catalogue = typer.Typer(help="The tables of what was carried, get_hf/models.md and get_hf/datasets.md.")

_File = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@catalogue.callback()
def _group() -> None:
    """Keep `merge` a command of its own: Typer would run the only one without its name."""


@catalogue.command()
def merge(base: _File, ours: _File, theirs: _File) -> None:
    """Merge two versions of a catalogue by its rows, into OURS: git's merge driver, called with %O %A %B.

    git config merge.llmstack.driver 'llmstack catalogue merge %O %A %B'
    """
    from llmstack.errors import UnavailableError
    from llmstack.lists import catalogue_merge as merging

    try:
        texts = [path.read_bytes().decode(errors="surrogateescape") for path in (base, ours, theirs)]
        merged = merging.merge(*texts)
        if merged is not None:
            ours.write_bytes(merged.encode(errors="surrogateescape"))
            return
        # Both have changed what people wrote: git marks where, as it does in any text.
        done = subprocess.run(["git", "merge-file", ours, base, theirs], check=False)  # noqa: S603, S607 - git itself has called us
    except OSError as error:
        raise UnavailableError(f"merging {ours}: {error.strerror}") from error
    raise typer.Exit(min(done.returncode, 1))
