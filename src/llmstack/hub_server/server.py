"""Running the hub: its sockets, TLS, signals, and the web server under it (uvicorn with httptools and uvloop)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from llmstack.errors import UnavailableError, UsageError
from llmstack.hub_server.application import Application
from llmstack.hub_server.refresher import Refresher
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.threads import Threads

# How long a stop waits for transfers that are under way, in seconds; Kubernetes gives 30.
GRACE = 20
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen, what clients must send, and the certificate with its key for TLS."""

    host: str
    port: int
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def serve(
    shelf: RepoIndex, refresher: Refresher, listen: Listen, log: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """List what is there and serve it until a signal comes; transfers under way are given a while to end.

    A place that is away is waited for, answering 503. Raises UsageError for a certificate that cannot be used,
    NotAuthorizedError, UnavailableError where nobody may listen there; and what the signal's own handler raises.
    """
    config = uvicorn.Config(
        Application(shelf, threads := Threads(), log, listen.token),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="critical",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
        ssl_certfile=listen.tls_cert,
        ssl_keyfile=listen.tls_key,
    )
    _load(config, listen)
    with _bind(listen) as bound:
        refresher.start()
        note(f"serving {shelf.name} at {_url(listen, bound)}")
        try:
            uvicorn.Server(config).run([bound])
        finally:
            refresher.close()
            threads.close()


def _load(config: uvicorn.Config, listen: Listen) -> None:
    try:
        config.load()
    except OSError as error:
        # ssl.SSLError is one, too.
        raise UsageError(f"{listen.tls_cert}: not a usable certificate with its key: {error}") from error


def _bind(listen: Listen) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Python adds the address to the system's words.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UnavailableError(f"listening at {listen.host}:{listen.port}: {reason}") from error


def _url(listen: Listen, bound: socket.socket) -> str:
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'https' if listen.tls_cert else 'http'}://{host}:{bound.getsockname()[1]}"
