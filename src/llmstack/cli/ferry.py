"""`llmstack ferry`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    DryRunOption,
    ExcludeOption,
    IncludeOption,
    JobsOption,
    JsonOption,
    Kind,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    TypeOption,
)


def ferry(
    repos: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REPO_ID[@REVISION]...]", help="What to carry; the wish lists in get_hf/ if none."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="NAMESPACE", help="Where to: registry/path, or oci:FOLDER.")
    ] = None,
    kind: TypeOption = Kind.MODEL,
    include: IncludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    exclude: ExcludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    prepare: Annotated[
        Path | None,
        typer.Option("--prepare", metavar="SCRIPT", help="Carry what this script makes of the repo, in a container."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base", metavar="REF|scratch", help="What the image stands on (default: busybox of Docker Hub)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Carry again what is there already.")] = False,
    split_large: Annotated[
        bool, typer.Option("--split-large", help="Carry a file that is too large for one layer of the target in parts.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Only the Ith of N parts of the list, for N machines.")
    ] = None,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Carry models and datasets from the Hugging Face Hub into a registry, or onto a disk.

    Each becomes an ordinary container image NAMESPACE/models:OWNER--NAME. Files stream through: nothing is kept on this
    machine's disk, and what an earlier image holds does not move again. Registries are logged in to with docker login.
    """
    from llmstack.hf.hub_urls import check_endpoint

    check_endpoint(os.environ)
    from llmstack.carried_image.file_index import Selection
    from llmstack.carried_image.naming import Namespace
    from llmstack.cli.ferry_output import print_results, show_failure, show_problem
    from llmstack.cli.github_actions import append_summary
    from llmstack.cli.session import start
    from llmstack.errors import UsageError
    from llmstack.ferrying.ferry import FerryOptions, exit_code, find_lists, read_lists
    from llmstack.ferrying.ferry import ferry as run
    from llmstack.ferrying.shard import Shard
    from llmstack.image_builds.build_environment import BuildEnvironment
    from llmstack.lists.wish_list import WishList, named_entries

    flags: dict[str, object] = {"namespace": to, "base": base, "jobs": jobs, "split_large": split_large or None}
    session = start(flags, progress=progress.value, quiet=quiet or as_json, plain_http=plain_http, debug=debug)
    settings = session.settings
    if settings.namespace is None:
        raise UsageError("ferry does not know where to carry to", hint="add --to registry/path or --to oci:FOLDER")
    selection = Selection(tuple(include), tuple(exclude))
    lists = find_lists(Path.cwd())
    if repos:
        wish = WishList(tuple(named_entries(repos, kind.value, selection, str(prepare) if prepare else None)), ())
    elif include or exclude or prepare:
        raise UsageError(
            "--include, --exclude and --prepare go with a named repo", hint="write them behind the list's line"
        )
    else:
        wish = read_lists(lists)
    if shard is not None:
        wish = Shard.parse(shard).of(wish)
    for problem in wish.problems:
        show_problem(problem)
    options = FerryOptions(
        target=Namespace.parse(settings.namespace),
        base=settings.base,
        jobs=settings.jobs,
        max_layer=settings.max_layer,
        split_large=settings.split_large,
        force=force,
        dry_run=dry_run,
        lists=lists,
        build_environment=BuildEnvironment.from_settings(settings),
    )
    results = run(wish.entries, options, session.client, session.registries, session.reporter, show_failure)
    print_results(results, as_json=as_json, dry_run=dry_run, quiet=quiet)
    append_summary(results, wish.problems)
    raise typer.Exit(exit_code(results, len(wish.problems)))
