"""`llmstack save`, `load`, `inventory` and `copy`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    DryRunOption,
    ExcludeOption,
    FromOption,
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


def save(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory of the bundle.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="REPO_ID[@REVISION]|IMAGE", help="Carried repos, NAME:TAG in the namespace, or images."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Save all images of the source.")] = False,
    source: FromOption = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    volume_size: Annotated[
        str | None,
        typer.Option("--volume-size", metavar="SIZE", help="Split into volumes: 64MB, 4GB, 25GB, fat32 or dvd."),
    ] = None,
    have: Annotated[
        Path | None, typer.Option("--have", metavar="FILE", help="Leave out what this inventory of the far side has.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", metavar="FILE", help="Record the bundle in this list of sent bundles.")
    ] = None,
    since: Annotated[bool, typer.Option("--since", help="Leave out what earlier bundles in the ledger sent.")] = False,
    missing: Annotated[
        Path | None, typer.Option("--missing", metavar="FILE", help="Save the blobs that load listed as missing.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="List the tags of the ledger that the source no longer has.")
    ] = False,
    from_hub: Annotated[
        bool, typer.Option("--from-hub", help="The repos are on the Hugging Face Hub, in no registry yet.")
    ] = False,
    include: IncludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    exclude: ExcludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    base: Annotated[
        str | None, typer.Option("--base", metavar="REF|scratch", help="With --from-hub: base image, as for ferry.")
    ] = None,
    with_llmstack: Annotated[
        bool, typer.Option("--with-llmstack", help="Add llmstack and its dependencies, for a host without a network.")
    ] = False,
    python: Annotated[
        list[str], typer.Option("--python", metavar="3.N", help="Python version of that host. Repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    platform: Annotated[
        list[str],
        typer.Option("--platform", metavar="TAG", help="Its platform, such as manylinux_2_28_x86_64. Repeatable."),
    ] = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Save images into a bundle: a directory for a disk, with checksums.

    A bundle is an OCI layout with the images and everything that refers to them. With --volume-size it is split into
    volumes; copy each to its own disk. Rerun the same command to resume. On the other side: llmstack load.
    """
    from llmstack.cli.bundle_output import print_saved
    from llmstack.errors import UsageError

    if from_hub and not images:
        raise UsageError("--from-hub requires a REPO_ID", hint="for example: llmstack save gpt2 --from-hub --to DIR")
    if sum((bool(images), everything, missing is not None)) != 1:
        raise UsageError(
            "name the images to save, or give --all or --missing FILE", hint="for example: llmstack save --all"
        )
    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http, jobs=jobs) as session:
        result = session.save(
            images or (),
            to,
            source=source,
            repo_type=repo_type.value,
            volume_size=volume_size,
            have=have,
            ledger=ledger,
            since=since,
            missing=missing,
            prune=prune,
            from_hub=from_hub,
            include=include,
            exclude=exclude,
            base=base,
            with_llmstack=with_llmstack,
            pythons=python,
            platforms=platform,
            dry_run=dry_run,
        )
    print_saved(result, as_json=as_json, quiet=quiet)


def load(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Directories of bundles or of their volumes, in any order.")
    ],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="NAMESPACE", help="Destination: registry/path, oci:DIR, or docker-daemon:."),
    ] = None,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Replace tags that a newer bundle or a newer image has.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete the tags that the bundle lists as gone at its source.")
    ] = False,
    missing: Annotated[
        Path | None, typer.Option("--missing", metavar="FILE", help="Write the list of blobs that the target lacks.")
    ] = None,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Load bundles that llmstack save wrote into a registry, a directory or the Docker Engine.

    Every byte is verified before anything gets a tag. Only what the destination lacks is uploaded. Volumes may come one
    at a time: those that are read are kept in NAMESPACE/bundles until the bundle is complete.
    """
    from llmstack.bundles.load import exit_code
    from llmstack.cli.bundle_output import print_loaded
    from llmstack.cli.runner import show_error
    from llmstack.ferrying.ferry import find_lists

    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http, jobs=jobs) as session:
        results = session.load(
            bundles,
            to=to,
            allow_older=allow_older,
            prune=prune,
            missing=missing,
            lists=find_lists(Path.cwd()),
            dry_run=dry_run,
            on_failure=lambda error: show_error(error, debug=debug),
        )
    print_loaded(results, as_json=as_json, quiet=quiet)
    raise typer.Exit(exit_code(results))


def inventory(
    repositories: Annotated[
        list[str] | None,
        typer.Argument(metavar="REPOSITORY", help="Repositories in the namespace, for example models (default: all)."),
    ] = None,
    source: FromOption = None,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Print which blobs a namespace has, as a file for llmstack save --have."""
    with open_session(quiet=quiet, plain_http=plain_http, jobs=jobs) as session:
        found = session.inventory(source, repositories=repositories or ())
    sys.stdout.write(json.dumps(found.to_json(), indent=1) + "\n")


def copy(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A namespace with all of its images, or one image with its tag.")
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A namespace, or for one image the name that it gets.")
    ],
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Copy images between registries and directories, unchanged, with signatures and everything that refers to them.

    Platforms, annotations and digests stay as they are. Within one registry, layers are mounted instead of transferred.
    """
    from llmstack.cli.bundle_output import print_copied

    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http, jobs=jobs) as session:
        result = session.copy(source, destination, dry_run=dry_run)
    print_copied(result, as_json=as_json, quiet=quiet)
