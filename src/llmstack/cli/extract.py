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
    Kind,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    TypeOption,
)


class LayoutStyle(StrEnum):
    """How the files are laid out, as --layout takes it."""

    DIR = "dir"
    HF_CACHE = "hf-cache"


def extract(
    image: ImageArgument,
    dest: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="Where to; may be left out for hf-cache (HF_HUB_CACHE).")
    ] = None,
    source: FromOption = None,
    kind: TypeOption = Kind.MODEL,
    layout: Annotated[
        LayoutStyle, typer.Option("--layout", help="A folder, or a Hugging Face cache.")
    ] = LayoutStyle.DIR,
    include: IncludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    exclude: ExcludeOption = [],  # noqa: B006 - Typer reads the default, nobody writes to it
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Get a model or dataset back out of its image, every byte verified.

    Files arrive beside their place and are renamed when they are whole; run it again to go on where it broke off.
    """
    from llmstack.carried_image.file_index import Selection
    from llmstack.cli.session import namespace_of, start
    from llmstack.extraction.extract import ExtractRequest
    from llmstack.extraction.extract import extract as run
    from llmstack.reporting import human_size, human_time

    session = start({"jobs": jobs}, progress=progress.value, quiet=quiet or as_json, plain_http=plain_http, debug=debug)
    request = ExtractRequest(
        argument=image,
        destination=dest,
        namespace=namespace_of(session),
        source=source,
        repo_type=kind.value,
        selection=Selection(tuple(include), tuple(exclude)),
        layout=layout.value,
        jobs=session.settings.jobs,
    )
    result = run(request, session.registries, session.client.cancel, session.reporter)
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    elif not quiet:
        kept = f", {human_size(result.bytes_reused)} were there already" if result.bytes_reused else ""
        sys.stdout.write(
            f"{result.files} files, {human_size(result.bytes_total)}{kept}, verified, in {result.destination}"
            f" ({human_time(result.seconds)})\n"
        )
