"""`llmstack ferry`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    DryRunOption,
    ExcludeOption,
    IncludeOption,
    JobsOption,
    JsonOption,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    RepoTypeChoice,
    TypeOption,
    open_session,
)

if TYPE_CHECKING:
    from llmstack.lists.wish_list import WishList


def ferry(
    repos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REPO_ID[@REVISION]|PATH",
            help="Repos to carry; without any, the lists in get_hf/. With --as, a local path.",
        ),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="NAMESPACE", help="Destination: registry/path, or oci:DIR.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="OWNER/NAME[@REVISION]",
            help="Carry a local directory, Hugging Face cache entry or file under this repo id.",
        ),
    ] = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    include: IncludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    exclude: ExcludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    prepare: Annotated[
        str | None,
        typer.Option(
            "--prepare",
            metavar="SCRIPT|none",
            help="Run this script in a container and carry its output (default for the lists: get_hf/prepare.sh).",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REF|scratch", help="Base image (default: busybox from Docker Hub)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Upload again even if up to date.")] = False,
    split_large: Annotated[
        bool, typer.Option("--split-large", help="Split files that exceed the registry's layer limit into parts.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Carry only the Ith of N shares of the list.")
    ] = None,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Carry models and datasets from the Hugging Face Hub, or from this machine, into a registry or a directory.

    Each repo becomes a container image NAMESPACE/models:OWNER--NAME. Files are streamed and never stored on this
    machine; layers that an earlier image has are reused. Log in to registries with docker login.
    """
    from llmstack.hf.hub_urls import check_endpoint

    # Before huggingface_hub is imported: its import fails on an invalid one.
    check_endpoint(os.environ)
    from functools import partial

    from llmstack.cli.ferry_output import print_results, show_failure, show_problem
    from llmstack.cli.github_actions import append_summary
    from llmstack.ferrying.ferry import exit_code, find_lists

    lists = find_lists(Path.cwd())
    wish_list = _wish_list(repos or [], name, repo_type, include, exclude, prepare, lists)
    if shard is not None:
        from llmstack.errors import UsageError
        from llmstack.lists.wish_list import Shard

        if name is not None:
            raise UsageError("--as cannot be combined with --shard: one repo has no shares", hint="leave --shard out")
        wish_list = Shard.parse(shard).select(wish_list)
    with open_session(
        progress,
        quiet=quiet,
        warnings_only=as_json,
        plain_http=plain_http,
        namespace=to,
        base=base,
        jobs=jobs,
        split_large=split_large or None,
    ) as session:
        for problem in wish_list.problems:
            show_problem(problem)
        results = session.ferry_all(
            wish_list.entries,
            force=force,
            dry_run=dry_run,
            lists=lists,
            on_failure=partial(show_failure, debug=debug),
        )
    print_results(results, as_json=as_json, dry_run=dry_run, quiet=quiet)
    append_summary(results, wish_list.problems)
    raise typer.Exit(exit_code(results, len(wish_list.problems)))


def _wish_list(
    repos: list[str],
    name: str | None,
    repo_type: RepoTypeChoice,
    include: list[str],
    exclude: list[str],
    prepare: str | None,
    lists: Path | None,
) -> WishList:
    """Return the repos that were named, else the wish lists of the directory `lists`."""
    from llmstack.carried_image.selection import Selection
    from llmstack.errors import UsageError
    from llmstack.ferrying.ferry import read_lists
    from llmstack.lists.wish_list import NO_SCRIPT, WishList, named_entries

    if repos or name is not None:
        selection = Selection(tuple(include), tuple(exclude))
        return WishList(tuple(named_entries(repos, repo_type.value, selection, prepare, name)), ())
    if include or exclude or prepare not in {None, NO_SCRIPT}:
        raise UsageError(
            "--include, --exclude and --prepare require a REPO_ID",
            hint="to use them in a wish list, write them at the end of the line",
        )
    return read_lists(lists, prepare)
