"""`llmstack hub`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.options import DebugOption, JobsOption, PlainHttpOption, QuietOption, open_session
from llmstack.errors import UnavailableError, UsageError
from llmstack.interrupts import Interrupted


def hub(
    source: Annotated[
        str | None, typer.Option("--from", metavar="NAMESPACE", help="Namespace or OCI layout (oci:DIR) to serve.")
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address to listen on.")
    ] = "127.0.0.1:8080",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="File with the token that clients must send.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="TLS certificate chain (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="TLS private key (PEM).")] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="URL of the hub for clients, if a proxy changes it.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, help="Number of worker processes (default: one per core, at most 8)."),
    ] = None,
    jobs: JobsOption = None,
    plain_http: PlainHttpOption = False,
    quiet: QuietOption = False,
    _debug: DebugOption = False,
) -> None:
    """Serve carried images as a read-only Hugging Face Hub. Clients set HF_ENDPOINT=http://HOST:PORT.

    Requires the extra `hub`. Files are streamed from the registry and not stored. Each request is logged to stdout.
    """
    host, port = _address(listen)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key must be used together")
    try:
        from llmstack.hub_server.public_url import PublicUrl
        from llmstack.hub_server.refresher import Refresher
        from llmstack.hub_server.server import CONNECTIONS, RETRY_POLICY, Listen, open_repo_index, serve
        from llmstack.hub_server.supervisor import default_workers
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llmstack"):
            raise
        raise UnavailableError(
            f"the package {error.name} is not installed: llmstack hub requires the extra `hub`",
            hint="in a checkout of llmstack: pip install '.[hub]'",
        ) from error

    session = open_session(
        quiet=quiet, plain_http=plain_http, jobs=jobs, connections=CONNECTIONS, retry_policy=RETRY_POLICY
    )
    workers = workers or default_workers()
    public_url = PublicUrl.parse(base_url, session.settings.hub_trusted_proxies)
    address = Listen(host, port, _token(token_file), tls_cert, tls_key, public_url)
    repo_index = open_repo_index(source, session.namespace, session.registries, session.settings.jobs, _note, workers)
    refresher = Refresher(repo_index, session.settings.hub_refresh, _note)
    try:
        serve(repo_index, refresher, address, _no_line if quiet else _line, _note)
    except Interrupted:
        # A signal is the normal end of a server: exit code 0.
        _note("stopped")
    finally:
        session.client.cancel.set()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or len(port) > 5 or int(port) > 65535:
        raise UsageError(f"--listen {text}: must be HOST:PORT", hint="as in 0.0.0.0:8080 or [::1]:8080")
    return host.strip("[]"), int(port)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not token:
        raise UsageError(f"--token-file {path}: is empty")
    return token


def _line(text: str) -> None:
    from llmstack.reporting import write_line

    write_line(sys.stdout, text)


def _no_line(_: str) -> None:
    pass


def _note(text: str) -> None:
    from llmstack.reporting import write_line

    write_line(sys.stderr, text)
