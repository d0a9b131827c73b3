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
    Kind,
    PlainHttpOption,
    ProgressOption,
    ProgressStyle,
    QuietOption,
    TypeOption,
)


def list_images(
    source: FromOption = None,
    kind: Annotated[Kind | None, typer.Option("--type", help="Only this kind of repo (default: both).")] = None,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List what a namespace holds: each carried repo with its commit, size and license."""
    from llmstack.cli.inspection_output import print_list
    from llmstack.cli.session import namespace_of, start
    from llmstack.hf.snapshot import REPO_TYPES
    from llmstack.inspection import list_images as run

    session = start({"jobs": jobs}, quiet=True, plain_http=plain_http, debug=debug)
    types = (kind.value,) if kind else REPO_TYPES
    found = run(source, namespace_of(session), types, session.registries, session.client.cancel, session.settings.jobs)
    print_list(found, as_json=as_json)


def inspect(
    image: ImageArgument,
    source: FromOption = None,
    kind: TypeOption = Kind.MODEL,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one image: commit, license, files and the layers that they lie in."""
    from llmstack.carried_image.locate import locate
    from llmstack.carried_image.source import open_source
    from llmstack.cli.inspection_output import print_details
    from llmstack.cli.session import namespace_of, start
    from llmstack.inspection import inspect as run

    session = start({}, quiet=True, plain_http=plain_http, debug=debug)
    wanted = locate(image, source, kind.value, namespace_of(session))
    with open_source(wanted, session.registries, session.reporter.note) as opened:
        print_details(run(opened), as_json=as_json)


def verify(
    image: ImageArgument,
    source: FromOption = None,
    kind: TypeOption = Kind.MODEL,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    progress: ProgressOption = ProgressStyle.AUTO,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Read every byte of an image and compare it with its digests and its file index."""
    from dataclasses import asdict

    from llmstack.carried_image.locate import locate
    from llmstack.carried_image.source import open_source
    from llmstack.cli.session import namespace_of, start
    from llmstack.errors import IntegrityError
    from llmstack.inspection import verify as run
    from llmstack.reporting import human_size, printable

    session = start({"jobs": jobs}, progress=progress.value, quiet=quiet or as_json, plain_http=plain_http, debug=debug)
    wanted = locate(image, source, kind.value, namespace_of(session))
    with open_source(wanted, session.registries, session.reporter.note) as opened:
        found = run(opened, session.reporter, session.client.cancel, session.settings.jobs)
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "ok": found.ok}, indent=2) + "\n")
    elif found.ok and not quiet:
        read = human_size(found.bytes_read)
        sys.stdout.write(f"{found.image}: {found.layers} layers, {found.files} files, {read}: all as it should be\n")
    if not found.ok:
        for problem in found.problems[:20]:
            sys.stderr.write(f"{printable(problem)}\n")
        raise IntegrityError(
            f"{found.image}: {len(found.problems)} of its manifests, layers and files are damaged or missing",
            hint="carry it again: --force" if found.files else "copy it again, whole",
            side="source",
        )
