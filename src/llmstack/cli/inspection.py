"""`llmstack list`, `inspect` and `verify`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    FromOption,
    ImageArgument,
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


def list_images(
    source: FromOption = None,
    repo_type: Annotated[
        RepoTypeChoice | None, typer.Option("--type", help="Only repos of this type (default: both).")
    ] = None,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """List the carried repos of a namespace with commit, size and license."""
    from llmstack.cli.inspection_output import print_list

    with open_session(warnings_only=True, plain_http=plain_http, jobs=jobs) as session:
        found = session.list_images(source, repo_type=repo_type.value if repo_type else None)
    print_list(found, as_json=as_json)


def inspect(
    image: ImageArgument,
    source: FromOption = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    _debug: DebugOption = False,
) -> None:
    """Show an image: commit, license, files and layers."""
    from llmstack.cli.inspection_output import print_details

    with open_session(warnings_only=True, plain_http=plain_http) as session:
        details = session.inspect(image, source=source, repo_type=repo_type.value)
    print_details(details, as_json=as_json)


def verify(
    image: ImageArgument,
    source: FromOption = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    trust: TrustOption = None,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Read every byte of an image and compare it with its digests and its file index."""
    from dataclasses import asdict

    from llmstack.errors import IntegrityError
    from llmstack.reporting import human_size, printable

    with open_session(progress, quiet=quiet, warnings_only=as_json, plain_http=plain_http, jobs=jobs) as session:
        found = session.verify(image, source=source, repo_type=repo_type.value, trust=trust)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "ok": found.ok}, indent=2) + "\n")
    elif found.ok and not quiet:
        size = human_size(found.bytes_read)
        files = f"{found.files} files" if found.files else "no file index, so digests of layers only"
        form = f", format {found.format}" if found.format else ""
        signed = f", signed by {printable(', '.join(found.signed_by))}" if found.signed_by else ""
        sys.stdout.write(f"{found.image}: OK: {found.layers} layers, {files}, {size} verified{form}{signed}\n")
    if not found.ok:
        for problem in found.problems[:20]:
            sys.stderr.write(f"{printable(problem)}\n")
        count = len(found.problems)
        damaged = "1 manifest, layer or file is" if count == 1 else f"{count} manifests, layers or files are"
        raise IntegrityError(
            f"{found.image}: {damaged} damaged or missing",
            hint="carry the repo again: llmstack ferry --force" if found.files else "copy the complete image again",
            side="source",
        )
