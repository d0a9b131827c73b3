"""Starting the hub: its repo index, socket, TLS and web server (uvicorn)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn

from llmstack.carried_image.image_location import LayoutLocation, parse_source
from llmstack.carried_image.naming import Namespace
from llmstack.carried_image.open_location import open_readers
from llmstack.errors import UnavailableError, UsageError
from llmstack.hf.snapshot import REPO_TYPES
from llmstack.hub_server.application import Application
from llmstack.hub_server.http_server import MAX_HEAD, LimitedServer, process_limits
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.metrics import Metrics
from llmstack.hub_server.public_url import PublicUrl
from llmstack.hub_server.refresher import Refresher
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.streaming import Threads
from llmstack.hub_server.supervisor import Supervisor
from llmstack.net import RetryPolicy
from llmstack.oci.repository import Registries

# Idle connections that are kept to the registry.
CONNECTIONS = 64
# A client waits for each request and retries itself, so it gets an answer soon if the registry is unavailable.
RETRY_POLICY = RetryPolicy(tries=3, longest_retry_after=2.0)
# How long a stop waits for transfers in progress, in seconds. Kubernetes' default is 30.
GRACE = 20
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Listen:
    """Address, token and TLS certificate of the hub, and the URL that clients know."""

    host: str
    port: int
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    public_url: PublicUrl = field(default_factory=PublicUrl)


def open_repo_index(
    source: str | None,
    namespace: Namespace,
    registries: Registries,
    jobs: int,
    note: Callable[[str], None],
    workers: int = 1,
) -> RepoIndex:
    """Return the index of `source` (`--from`; None: `namespace`), not read yet; raises UsageError.

    Its limits of memory are divided by `workers`.
    """
    parsed = namespace if source is None else parse_source(source)
    if not isinstance(parsed, Namespace | LayoutLocation):
        raise UsageError(f"--from {source}: a hub serves a namespace or an OCI layout", hint="as in oci:./carried")
    return RepoIndex(source or str(namespace), open_readers(parsed, REPO_TYPES, registries), jobs, note, workers)


def serve(
    repo_index: RepoIndex, refresher: Refresher, listen: Listen, log: Callable[[str], None], note: Callable[[str], None]
) -> None:
    """Serve the repos until a signal comes; transfers in progress get a grace period.

    An index that is shared by several workers is served by as many processes, and refreshed by another one. While the
    registry is unavailable, the answer is 503. Raises UsageError for an invalid certificate, NotAuthorizedError,
    UnavailableError if the address cannot be used, and what the signal's handler raises.
    """
    metrics = Metrics(repo_index.share)
    hub = Hub(repo_index, metrics, threads := Threads(metrics))
    config = uvicorn.Config(
        Application(hub, log, listen.public_url, listen.token),
        loop="uvloop",
        http="h11",
        h11_max_incomplete_event_size=MAX_HEAD,
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
    limits = process_limits().shared(metrics.workers)
    with _bind(listen) as bound:
        server = LimitedServer(config, bound, limits, metrics)
        serving = f"serving {repo_index.name} at {_url(listen, bound)}"
        if metrics.workers > 1:
            supervisor = Supervisor(hub, refresher, server.run, note, GRACE)
            try:
                supervisor.start()
                note(serving)
                supervisor.watch()
            finally:
                bound.close()
                supervisor.stop()
        else:
            refresher.start(hub.facts.read_all)
            note(serving)
            try:
                server.run()
            finally:
                refresher.close()
                threads.close()


def _load(config: uvicorn.Config, listen: Listen) -> None:
    try:
        config.load()
    except OSError as error:
        # ssl.SSLError is an OSError.
        raise UsageError(f"{listen.tls_cert}: invalid certificate or key: {error}") from error


def _bind(listen: Listen) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        return socket.create_server((listen.host, listen.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Python adds the address to the message of the system.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UnavailableError(f"{listen.host}:{listen.port}: cannot listen: {reason}") from error


def _url(listen: Listen, bound: socket.socket) -> str:
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    return f"{'https' if listen.tls_cert else 'http'}://{host}:{bound.getsockname()[1]}"
