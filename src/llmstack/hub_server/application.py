"""The hub as an ASGI application: who may ask, which handler answers, and one line of log for each request."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import sys
import time
from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlencode

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from llmstack.errors import LlmstackError
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server import hub_api as api
from llmstack.hub_server.error_answers import AnswerError, answer_for, headers_of, no_route, not_authorized, read_only
from llmstack.hub_server.file_route import resolve
from llmstack.hub_server.metrics import CONTENT_TYPE, Metrics
from llmstack.hub_server.pages import Site, error_page, wants_page
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.routes import ApiCall, FileAddress, Listing, parse_address
from llmstack.hub_server.scheme import scheme_of
from llmstack.hub_server.threads import Threads
from llmstack.reporting import printable, write_traceback

# A page of a list or a tree, in entries, as on the Hub.
PAGE = 1000
# Clients ask for some hundred paths at once; a form of 10,000 long ones stays below this, in bytes.
MAX_FORM = 2 * 1024 * 1024
_READS = frozenset({"GET", "HEAD"})
_OPEN = frozenset({"/healthz"})


class Application:
    """Answers requests out of a shelf. `token` is what clients must send, `log` hears a line for each request."""

    def __init__(
        self, shelf: RepoIndex, threads: Threads, log: Callable[[str], None], token: str | None = None
    ) -> None:
        self._shelf = shelf
        self._threads = threads
        self._log = log
        self._token = token
        self._metrics = Metrics()
        self._site = Site(shelf)
        self._fixed: dict[str, Callable[[Request], Response]] = {
            "/healthz": self._healthz,
            "/metrics": self._metrics_page,
            "/api/whoami-v2": self._whoami,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        request = Request(scope, receive)
        sent = _Sent(send)
        began = time.monotonic()
        self._metrics.open_requests += 1
        note = ""
        try:
            response = await self._respond(request)
            await response(scope, receive, sent)
        except LlmstackError as error:
            # The status is out already: the server breaks the connection off, and the client knows.
            note = f" broken off: {error}"
        except Exception:
            write_traceback(sys.stderr)
            note = " broken off: a bug in llmstack"
        finally:
            seconds = time.monotonic() - began
            self._metrics.open_requests -= 1
            self._metrics.count(request.method, sent.status, sent.size, seconds)
            self._log(_line(request, sent, seconds) + printable(note))

    async def _respond(self, request: Request) -> Response:
        try:
            self._check_token(request)
            return await self._dispatch(request)
        except LlmstackError as error:
            return error_response(request, answer_for(error))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            write_traceback(sys.stderr)
            return error_response(
                request, AnswerError(500, "InternalError", "a bug in llmstack: its log has the traceback")
            )

    def _check_token(self, request: Request) -> None:
        if self._token is None or request.scope["path"] in _OPEN:
            return
        given = _given_token(request.headers.get("Authorization", ""))
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode()):
            raise not_authorized()

    async def _dispatch(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode("ascii", "surrogateescape")
        address = parse_address(path)
        if isinstance(address, ApiCall) and address.verb == "paths-info":
            if request.method != "POST":
                raise read_only("POST")
            return _json(await self._threads.run(self._paths_info, address, await _body(request)))
        if request.method not in _READS:
            raise read_only("GET, HEAD")
        if isinstance(address, FileAddress):
            return await resolve(self._shelf, self._threads, address, request.method, request.headers)
        if isinstance(address, ApiCall):
            return await self._threads.run(self._call, address, request)
        if isinstance(address, Listing):
            return await self._threads.run(self._list, address.kind, request)
        if fixed := self._fixed.get(path):
            return fixed(request)
        page = self._site.find(path, address)
        if page is None:
            raise no_route()
        return await self._threads.run(page, request)

    def _call(self, call: ApiCall, request: Request) -> Response:
        query = request.query_params
        if call.verb is None or call.verb == "revision":
            expand = frozenset(query.getlist("expand"))
            return _json(api.info(self._shelf, call, blobs=api.flag(query, "blobs"), expand=expand))
        repo = self._shelf.find(call.kind, call.repo_id)
        if call.verb == "refs":
            return _json(api.refs(repo))
        if call.verb == "auth-check":
            return _json({})
        revision = self._shelf.revision(call.kind, call.repo_id, call.revision or "")
        if call.verb == "commits":
            return _json(api.commits(revision))
        entries = api.tree(revision, self._shelf.files(revision), call.path, recursive=api.flag(query, "recursive"))
        return _paged(request, entries)

    def _list(self, kind: RepoType, request: Request) -> Response:
        query = request.query_params
        repos = api.matching(self._shelf.repos(kind), search=query.get("search", ""), author=query.get("author", ""))
        return _paged(request, (api.summary(repo.shown) for repo in repos))

    def _paths_info(self, call: ApiCall, form: bytes) -> object:
        paths = parse_qs(form.decode("utf-8", "surrogateescape")).get("paths", [])
        revision = self._shelf.revision(call.kind, call.repo_id, call.revision or "")
        return api.paths_info(self._shelf.files(revision), paths)

    def _healthz(self, _: Request) -> Response:
        self._shelf.repos()
        return Response("ok\n", media_type="text/plain")

    def _metrics_page(self, _: Request) -> Response:
        text = self._metrics.text(repos=self._shelf.count, reads=self._threads.reads, refreshed=self._shelf.refreshed)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    def _whoami(self, request: Request) -> Response:
        if not request.headers.get("Authorization"):
            raise not_authorized()
        access = {"type": "access_token", "accessToken": {"displayName": "read", "role": "read"}}
        user = {"type": "user", "id": "reader", "name": "reader", "fullname": "Reader", "orgs": [], "auth": access}
        return _json(user)


class _Sent:
    """Passes an answer on to the server, noting its status and size."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
        await self._send(message)
        self.size += len(message.get("body", b""))


def error_response(request: Request, error: AnswerError) -> Response:
    """Return an error in the Hub's form, to browsers with a page instead of JSON."""
    headers = headers_of(error)
    if wants_page(request):
        return error_page(request, error, headers)
    return _json({"error": headers["X-Error-Message"]}, error.status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # ASCII alone: names may hold what is no Unicode.
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def _paged(request: Request, items: api.Items) -> Response:
    query = request.query_params
    limit = _number(query.get("limit"), PAGE) or PAGE
    cursor = _number(query.get("cursor"), 0)
    entries, following = api.page(items, cursor, min(limit, PAGE))
    headers = {}
    if following is not None:
        headers["Link"] = f'<{_next_url(request, following)}>; rel="next"'
    return _json(entries, headers=headers)


def _next_url(request: Request, cursor: int) -> str:
    """Return the address of a list's next page: this one's, as the client knows it; what it has sent is quoted."""
    host = quote(request.headers.get("Host", ""), safe="[]:", errors="replace")
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    following = urlencode([*query, ("cursor", str(cursor))], errors="replace")
    return f"{scheme_of(request)}://{host}{_quoted_path(request)}?{following}"


def _quoted_path(request: Request) -> str:
    return quote(request.scope["raw_path"].decode("latin-1"), safe="/%:@&=+$,~!*'();")


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default


async def _body(request: Request) -> bytes:
    """Return the body of a form; raises AnswerError for one that no client sends."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            raise AnswerError(413, "TooLarge", f"a form may have {MAX_FORM} bytes")
    return bytes(body)


def _given_token(header: str) -> str:
    """Return the token of an Authorization header: a Bearer's, or a browser's password."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode(errors="surrogateescape").partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return value.strip() if scheme.lower() == "bearer" else ""


def _line(request: Request, sent: _Sent, seconds: float) -> str:
    """Return a request's line; the query stays out of it."""
    client = request.client.host if request.client else "-"
    path = printable(request.scope["raw_path"].decode("ascii", "backslashreplace"))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return f"{at} {client} {request.method} {path} {sent.status} {sent.size} {seconds:.3f}"
