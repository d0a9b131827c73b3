"""`llmstack sign`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import (
    DebugOption,
    FromOption,
    JsonOption,
    PlainHttpOption,
    QuietOption,
    RepoTypeChoice,
    TypeOption,
    open_session,
)

PASSPHRASE_VARIABLE = "LLMSTACK_SIGN_PASSPHRASE"  # noqa: S105 - the name of a variable


def sign(
    image: Annotated[
        str | None,
        typer.Argument(metavar="REPO_ID[@REVISION]|IMAGE", help="A carried repo by its id, or any image."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEY", help="PEM private key; with --keygen, the file to write.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="PEM certificate of the key, followed by its chain."),
    ] = None,
    keygen: Annotated[
        bool, typer.Option("--keygen", help="Write a new key to KEY and its public key to KEY.pub; sign nothing.")
    ] = False,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help=f"Passphrase of KEY (default: {PASSPHRASE_VARIABLE})."),
    ] = None,
    source: FromOption = None,
    repo_type: TypeOption = RepoTypeChoice.MODEL,
    plain_http: PlainHttpOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Sign an image and the files in it, and attach the signatures to it.

    No byte of the files is read: their hashes are in the file index. Neither the Hub nor a transparency log is asked.
    """
    from llmstack.errors import UsageError

    if key is None:
        raise UsageError("no key", hint="add --key KEY; a new one: llmstack sign --keygen --key KEY")
    if keygen:
        if image is not None or certificate is not None:
            raise UsageError("--keygen signs nothing", hint="leave the image and --certificate out")
        _generate(key, passphrase_file, quiet=quiet)
        return
    if image is None:
        raise UsageError("no image", hint="llmstack sign REPO_ID --key KEY")
    with open_session(quiet=quiet, warnings_only=as_json, plain_http=plain_http) as session:
        result = session.sign(
            image,
            key,
            certificate=certificate,
            passphrase=lambda: read_passphrase(key, passphrase_file),
            source=source,
            repo_type=repo_type.value,
        )
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    elif not quiet:
        files = f" and {result.files} files" if result.repo_id else ""
        sys.stdout.write(f"{result.image}: signed {result.digest}{files} with key {result.key}\n")


def _generate(key: Path, passphrase_file: Path | None, *, quiet: bool) -> None:
    from llmstack.signing.keys import generate

    passphrase = read_passphrase(key, passphrase_file, new=True)
    public = generate(key, passphrase)
    if not passphrase:
        sys.stderr.write(f"warning: {key} is not encrypted\n")
    if not quiet:
        sys.stdout.write(f"{key}.pub: {public.fingerprint}\n")


def read_passphrase(key: Path, file: Path | None, *, new: bool = False) -> bytes:
    """Return the passphrase of a key: from a file, the environment, or the terminal; raises UsageError."""
    from llmstack.errors import UsageError
    from llmstack.signing.keys import read_pem

    if file is not None:
        return read_pem(file).removesuffix(b"\n").removesuffix(b"\r")
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given.encode("utf-8", "surrogateescape")
    if not sys.stdin.isatty():
        raise UsageError(
            f"{key}: needs a passphrase, and there is no terminal to ask for it",
            hint=f"add --passphrase-file FILE, or set {PASSPHRASE_VARIABLE}",
        )
    prompt = f"Passphrase of {key}" + (" (empty: not encrypted)" if new else "")
    answer: str = typer.prompt(
        prompt, default="", show_default=False, hide_input=True, confirmation_prompt=new, err=True
    )
    return answer.encode()
