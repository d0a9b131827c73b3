"""What the handlers of requests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from llmstack.errors import UnavailableError
from llmstack.hub_server.error_answers import AnswerError
from llmstack.hub_server.facts_index import FactsIndex
from llmstack.hub_server.layout_files import LayoutFiles
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.metrics import Metrics
from llmstack.hub_server.paths import Target
from llmstack.hub_server.registry_api.artifacts import Artifacts
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.streaming import Threads
from llmstack.oci.reference import Digest

# One form, and all forms that are in memory at a time, in bytes. Clients send some hundred paths at once.
MAX_FORM = 2 * 1024 * 1024
_MAX_FORMS = 64 * 1024 * 1024
# Rendered READMEs, in characters.
_MAX_RENDERED = 16 * 1024 * 1024


class Forms:
    """The bodies of POST requests, with a limit on their memory; used by the event loop only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body, and count its memory until the context ends.

        Raises AnswerError if it is too large, UnavailableError if there are too many.
        """
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._size += len(chunk)
                if len(body) > MAX_FORM:
                    raise AnswerError(413, "TooLarge", f"the form is larger than {MAX_FORM} bytes")
                if self._size > self._limit:
                    raise UnavailableError(f"the forms of all clients are larger than {self._limit} bytes")
            yield bytes(body)
        finally:
            self._size -= len(body)


@dataclass(frozen=True, slots=True)
class Hub:
    """The state of a running hub. `rendered` caches READMEs as HTML by image and URL."""

    repo_index: RepoIndex
    metrics: Metrics
    threads: Threads
    layout_files: LayoutFiles = field(default_factory=LayoutFiles)
    forms: Forms = field(init=False)
    rendered: Cache[tuple[Digest, str], str] = field(init=False)
    facts: FactsIndex = field(init=False)
    artifacts: Artifacts = field(init=False)

    def __post_init__(self) -> None:
        share = self.repo_index.share
        object.__setattr__(self, "forms", Forms(_MAX_FORMS // share))
        object.__setattr__(self, "rendered", Cache[tuple[Digest, str], str](_MAX_RENDERED // share, len))
        object.__setattr__(self, "facts", FactsIndex(self.repo_index))
        object.__setattr__(self, "artifacts", Artifacts(self.repo_index, self.facts))


# A plain function runs in a thread, since it may read from the registry; a coroutine function runs in the event loop.
Handler = Callable[[Hub, Request, Target], Response] | Callable[[Hub, Request, Target], Awaitable[Response]]
