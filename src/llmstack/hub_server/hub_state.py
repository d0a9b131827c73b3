"""What the handlers of requests share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.metrics import Metrics
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.streaming import Threads
from llmstack.hub_server.urls import Target
from llmstack.oci.reference import Digest

# Rendered READMEs, in characters.
_MAX_RENDERED = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Hub:
    """The state of a running hub. `rendered` caches READMEs as HTML by image and URL."""

    repo_index: RepoIndex
    threads: Threads
    metrics: Metrics = field(default_factory=Metrics)
    rendered: Cache[tuple[Digest, str], str] = field(default_factory=lambda: Cache(_MAX_RENDERED, len))


# A plain function runs in a thread, since it may read from the registry; a coroutine function runs in the event loop.
Handler = Callable[[Hub, Request, Target], Response] | Callable[[Hub, Request, Target], Awaitable[Response]]
