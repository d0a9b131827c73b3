"""The options that several verbs share, each written once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """A repo type, as --type takes it."""

    MODEL = "model"
    DATASET = "dataset"


class ProgressStyle(StrEnum):
    """How progress is shown, as --progress takes it."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    NONE = "none"


ImageArgument = Annotated[
    str, typer.Argument(metavar="REPO_ID[@REVISION]|IMAGE", help="A carried repo by its id, or any image.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="Where from: a namespace, oci:FOLDER, docker-daemon:, docker-archive:FILE, oci-archive:FILE.",
    ),
]
TypeOption = Annotated[Kind, typer.Option("--type", help="Which kind of repo.")]
IncludeOption = Annotated[list[str], typer.Option("--include", metavar="GLOB", help="Only these files. Repeatable.")]
ExcludeOption = Annotated[list[str], typer.Option("--exclude", metavar="GLOB", help="Not these files. Repeatable.")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help="How many files move at a time (default: 4)")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout at the end.")]
ProgressOption = Annotated[ProgressStyle, typer.Option("--progress", help="How progress is shown, on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes; errors only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Speak to the registry without TLS (implied on this machine).")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
