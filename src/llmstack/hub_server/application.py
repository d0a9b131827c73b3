"""The hub as an ASGI application: checks the token, calls the route's handler, and logs each request."""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from typing import cast
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmstack.errors import LlmstackError
from llmstack.hub_server.error_answers import (
    AnswerError,
    MovedError,
    answer_for,
    headers_of,
    no_route,
    not_authorized,
    read_only,
)
from llmstack.hub_server.hub_api import json_response
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.layout_files import ZERO_COPY
from llmstack.hub_server.metrics import Slot
from llmstack.hub_server.pages import error_page
from llmstack.hub_server.paths import QUERY_CHARACTERS, path_of, quoted_path
from llmstack.hub_server.public_url import PublicUrl, prefix_of
from llmstack.hub_server.registry_api.registry_errors import is_registry_path, registry_error
from llmstack.hub_server.routes import find_route
from llmstack.reporting import printable, write_traceback

# A page of any origin may read what needs no token, and the rest with the token. `*` excludes what the browser knows:
# cookies, and a password that a person has typed.
_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
)
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    # `*` does not include Authorization.
    "Access-Control-Allow-Headers": "*, Authorization",
    "Access-Control-Max-Age": "7200",
}


class Application:
    """Answers requests. `token` is what clients must send, `log` gets one line per request."""

    def __init__(self, hub: Hub, log: Callable[[str], None], public_url: PublicUrl, token: str | None = None) -> None:
        self._hub = hub
        self._public_url = public_url
        self._log = log
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        request = Request(scope, receive)
        self._public_url.note(request)
        sent = _Sent(send)
        began = time.monotonic()
        metrics = self._hub.metrics
        metrics.add(Slot.OPEN_REQUESTS, 1)
        note = ""
        try:
            response = await self._respond(request)
            await response(scope, receive, sent)
        except LlmstackError as error:
            # The status has been sent. The server drops the connection, so that the client sees the failure.
            note = f" broken off: {error}"
        except Exception:
            write_traceback(sys.stderr)
            note = " broken off: a bug in llmstack"
        finally:
            seconds = time.monotonic() - began
            metrics.add(Slot.OPEN_REQUESTS, -1)
            metrics.count(request.method, sent.status, sent.size, seconds)
            self._log(_line(request, sent, seconds) + printable(note))

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._dispatch(request)
        except LlmstackError as error:
            return _error_response(request, answer_for(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            write_traceback(sys.stderr)
            return _error_response(
                request, AnswerError(500, "InternalError", "a bug in llmstack: its log has the traceback")
            )

    async def _dispatch(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=_PREFLIGHT)
        path = path_of(request)
        found = find_route(path)
        request.state.has_token = self._has_token(request)
        if not request.state.has_token and not (found and found[0].public):
            raise not_authorized(names_repo=bool(found and found[1].repo_id))
        allowed = found[0].methods if found else frozenset({"GET", "HEAD"})
        if request.method not in allowed:
            raise read_only(", ".join(sorted(allowed)))
        if found is None:
            raise no_route()
        route, target = found
        try:
            if inspect.iscoroutinefunction(route.handler):
                return await cast(Awaitable[Response], route.handler(self._hub, request, target))
            return cast(Response, await self._hub.threads.run(route.handler, self._hub, request, target))
        except MovedError as moved:
            # Relative: huggingface_hub follows no other redirect of HEAD.
            location = quoted_path(route.template.with_repo(path, moved.repo_id))
            query = quote(request.scope["query_string"], safe=QUERY_CHARACTERS)
            moved.headers["Location"] = prefix_of(request) + (f"{location}?{query}" if query else location)
            raise

    def _has_token(self, request: Request) -> bool:
        """Tell whether the request has the token, or none is required."""
        given = _given_token(request.headers.get("Authorization", ""))
        expected = self._token
        return expected is None or hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


class _Sent:
    """Passes a response on to the server and records its status and size."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *_EVERYWHERE]
        await self._send(message)
        self.size += message["count"] if message["type"] == ZERO_COPY else len(message.get("body", b""))


def _error_response(request: Request, error: AnswerError) -> Response:
    """Return an error in the Hub's form, or that of a registry; browsers get a page."""
    if is_registry_path(path_of(request)):
        return registry_error(error)
    headers = headers_of(error)
    is_browser = "text/html" in request.headers.get("Accept", "")
    if is_browser and not path_of(request).startswith("/api/"):
        return error_page(request, error, headers)
    return json_response({"error": headers["X-Error-Message"]}, error.status, headers)


def _given_token(header: str) -> str:
    """Return the token in an Authorization header: a Bearer token, or the password of Basic, else its user."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return ""
        user, _, password = decoded.decode(errors="surrogateescape").partition(":")
        return password or user
    return value.strip() if scheme.lower() == "bearer" else ""


def _line(request: Request, sent: _Sent, seconds: float) -> str:
    """Return a request's log line, without the query: it may contain a token."""
    client = request.client.host if request.client else "-"
    path = printable(request.scope["raw_path"].decode("ascii", "backslashreplace"))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{at} {client} {request.method} {path} {sent.status} {sent.size} {seconds:.3f}"
