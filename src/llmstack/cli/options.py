"""The options that several commands share, and the session that they configure."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmstack.net import RetryPolicy
    from llmstack.session import Session


class RepoTypeChoice(StrEnum):
    """The values of --type."""

    MODEL = "model"
    DATASET = "dataset"


class ProgressStyle(StrEnum):
    """The values of --progress."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    NONE = "none"


def _set_debug(context: typer.Context, value: bool) -> bool:
    context.find_root().obj.debug = value
    return value


ImageArgument = Annotated[
    str, typer.Argument(metavar="REPO_ID[@REVISION]|IMAGE", help="A carried repo by its id, or any image.")
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE",
        help="Source: a namespace, oci:DIR, docker-daemon:, docker-archive:FILE or oci-archive:FILE.",
    ),
]
TypeOption = Annotated[RepoTypeChoice, typer.Option("--type", help="Repo type.")]
IncludeOption = Annotated[
    list[str], typer.Option("--include", metavar="GLOB", help="Only files that match. Repeatable.")
]
ExcludeOption = Annotated[list[str], typer.Option("--exclude", metavar="GLOB", help="No files that match. Repeatable.")]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="Largest number of parallel transfers (default: one per processor, 4 to 8)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout at the end.")]
ProgressOption = Annotated[ProgressStyle, typer.Option("--progress", help="Style of the progress on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Print the traceback of errors.", callback=_set_debug)]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Use HTTP for all registries (default for localhost).")
]
TrustOption = Annotated[
    Path | None,
    typer.Option(
        "--trust", metavar="FILE", help="Require signatures: a trust file, a PEM public key or a CA certificate."
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]


def open_session(
    progress: ProgressStyle = ProgressStyle.NONE,
    *,
    quiet: bool = False,
    warnings_only: bool = False,
    plain_http: bool = False,
    connections: int = 0,
    retry_policy: RetryPolicy | None = None,
    **settings: object,
) -> Session:
    """Return a session that reports to stderr; `settings` are options that are settings too. Raises UsageError."""
    from llmstack.reporting import make_reporter
    from llmstack.session import Session
    from llmstack.settings import load_settings

    reporter = make_reporter(progress.value, quiet=quiet, warnings_only=warnings_only)
    return Session(
        load_settings(settings), reporter, plain_http=plain_http, connections=connections, retry_policy=retry_policy
    )
