"""`llmstack extract`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    ExcludeOption,
    FromOption,
    ImageArgument,
    IncludeOption,
    JobsOption,
    JsonOption,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    RepoTypeChoice,
    TrustOption,
    TypeOption,
    open_session,
)


class LayoutStyle(StrEnum):
    """The values of --layout."""

    DIR = "dir"
    HF_CACHE = "hf-cache"


def extract(
    image: ImageArgument,
    dest: Annotated[
        Path | None,
        typer.Argument(metavar="DEST", help="Destination directory; optional for hf-cache (HF_HUB_CACHE)."),
    ] = None,
    source: FromOption = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    layout: Annotated[
        LayoutStyle, typer.Option("--layout", help="A plain directory, or a Hugging Face cache.")
    ] = LayoutStyle.DIR,
    include: IncludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    exclude: ExcludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    trust: TrustOption = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Also write model.sig, the signature of the files. Needs --trust.")
    ] = False,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Extract a model or dataset from its image and verify every byte.

    Each file gets its name only when it is complete and verified. Rerun to resume.
    """
    from llmstack.reporting import human_size, human_time, printable

    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http, jobs=jobs) as session:
        result = session.extract(
            image,
            dest,
            source=source,
            repo_type=repo_type.value,
            layout=layout.value,
            include=include,
            exclude=exclude,
            trust=trust,
            bundle=bundle,
        )
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    elif not quiet:
        reused = f" ({human_size(result.bytes_reused)} reused)" if result.bytes_reused else ""
        signed = f", signed by {printable(', '.join(result.signed_by))}" if result.signed_by else ""
        sys.stdout.write(
            f"{result.destination}: {result.files} files, {human_size(result.bytes_total)}{reused} verified"
            f" in {human_time(result.seconds)}{signed}\n"
        )
