"""`llmstack prune`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    DryRunOption,
    JobsOption,
    JsonOption,
    PlainHttpOption,
    QuietOption,
    open_session,
)
from llmstack.errors import UsageError

if TYPE_CHECKING:
    from llmstack.bundles.prune import PruneResult


def prune(
    repositories: Annotated[
        list[str] | None,
        typer.Argument(metavar="REPOSITORY", help="Repositories in the namespace, for example models (default: all)."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="NAMESPACE", help="Where to delete: registry/path or oci:DIR.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="NUMBER", help="Keep the newest NUMBER versions of each.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Delete only versions of this age: 90d, 12w, 6m, 1y."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Delete old versions of carried repos and of built images from a registry or a directory.

    Versions are the revisions of a repo, by the date of the commit, and the dated tags of llmstack build --push.
    The revision main and what a moving tag names are never deleted, nor is anything that another image needs.
    Signatures of a deleted image are deleted with it.
    """
    from llmstack.cli.bundle_output import print_pruned

    def confirm(plan: PruneResult) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty() or as_json or quiet:
            raise UsageError("nothing was deleted: this needs a confirmation", hint="look at --dry-run, then add --yes")
        print_pruned(plan, as_json=False, quiet=False)
        return typer.confirm("Delete what is planned?")

    with open_session(quiet=quiet, plain_http=plain_http, jobs=jobs) as session:
        result = session.prune(
            source,
            repositories=repositories or (),
            keep=keep,
            older_than=older_than,
            dry_run=dry_run,
            confirm=confirm,
        )
    print_pruned(result, as_json=as_json, quiet=quiet)
    raise typer.Exit(result.exit_code)
