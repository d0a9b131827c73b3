"""What every verb that moves something works with, made from its options."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.carried_image.naming import Namespace
from llmstack.cli.exit_codes import EDGE
from llmstack.engine.credentials import lookup
from llmstack.net import DEFAULT_RETRY_POLICY, Client, RetryPolicy
from llmstack.oci.repository import Registries
from llmstack.reporting import Progress, Reporter, make_reporter
from llmstack.settings import DEFAULT_NAMESPACE, Settings, load_settings


@dataclass(frozen=True, slots=True)
class Session:
    """Settings, the HTTP client with the registries behind it, and who hears of progress."""

    settings: Settings
    client: Client
    registries: Registries
    reporter: Reporter


def start(
    flags: dict[str, object],
    *,
    progress: Progress = "auto",
    quiet: bool = False,
    plain_http: bool = False,
    debug: bool = False,
    connections: int = 0,
    retry_policy: RetryPolicy = DEFAULT_RETRY_POLICY,
) -> Session:
    """Return the session of a verb; `flags` are options that are settings too. Raises UsageError.

    `connections` are kept beside those of the jobs, and `retry_policy` is what each request has.
    """
    EDGE.debug = debug
    settings = load_settings(flags)
    reporter = make_reporter(progress, quiet=quiet)
    # A bundle of small files is read some files ahead, on connections of their own.
    client = Client(
        connections=settings.jobs + 10 + connections,
        note=reporter.note,
        timeout=settings.timeout,
        retry_wait=settings.retry_wait,
        retry_policy=retry_policy,
    )
    registries = Registries(client, lookup, ("*",) if plain_http else settings.plain_http)
    return Session(settings, client, registries, reporter)


def namespace_of(session: Session) -> Namespace:
    """Return the namespace that images are read from where a verb is given none."""
    return Namespace.parse(session.settings.namespace or DEFAULT_NAMESPACE)
