"""A loopback Hugging Face Hub, and the CDN that LFS files are redirected to."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote

from tests.support.hub import answers
from tests.support.hub.content import Commit, Content, Gated, Generated, HubFile, Repo, RepoType
from tests.support.hub.faults import Fault, Faults, Host
from tests.support.hub.log import Logged, RequestLog
from tests.support.webserver import BlobRange, Body, Request, Response, WebServer

API_VERBS = frozenset({"revision", "tree", "paths-info", "refs", "commits", "auth-check"})
PREFIX: dict[RepoType, str] = {"model": "", "dataset": "datasets/"}
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
class Account:
    """The account of a token, with the gated and private repos that it can read."""

    name: str
    access: frozenset[str]


class Refused(Exception):  # noqa: N818 - a response, not a failure of the fixture
    """An error response in the form of the Hub."""

    def __init__(self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        headers = self.headers | {"X-Error-Message": self.message}
        if self.code:
            headers["X-Error-Code"] = self.code
        return _json({"error": self.message}, self.status, headers)


class Hub:
    """A hub on a free loopback port; with `cdn`, LFS files are redirected to another origin with a signed URL.

    `resolve_cache` redirects all other files to a relative URL, as the public Hub does.
    """

    def __init__(self, *, port: int = 0, cdn: bool = True, resolve_cache: bool = False) -> None:
        self.cdn = cdn
        self.resolve_cache = resolve_cache
        self.repos: dict[tuple[RepoType, str], Repo] = {}
        self.renamed: dict[tuple[RepoType, str], str] = {}
        self.accounts: dict[str, Account] = {}
        self.log = RequestLog()
        self.faults = Faults()
        self._signing_epoch = 0
        self._hub = WebServer(lambda request: self._answer("hub", request), port=port)
        # Another host, not only another port: some clients compare the host only.
        self._cdn = WebServer(lambda request: self._answer("cdn", request), host="127.0.0.2")

    @property
    def url(self) -> str:
        return self._hub.url

    @property
    def cdn_url(self) -> str:
        return self._cdn.url

    def start(self) -> Self:
        self._hub.start()
        self._cdn.start()
        return self

    def stop(self) -> None:
        self._hub.stop()
        self._cdn.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, Content],
        *,
        repo_type: RepoType = "model",
        license: str | None = None,  # noqa: A002 - the hub's word for it
        gated: Gated = False,
        private: bool = False,
        lfs_over: int = 10 * 1024,
    ) -> Repo:
        """Add a repo with one commit; files larger than `lfs_over` bytes are LFS files."""
        repo = Repo(repo_id, repo_type, license=license, gated=gated, private=private, lfs_over=lfs_over)
        repo.commit(files, title="initial commit")
        self.repos[repo_type, repo_id] = repo
        return repo

    def rename(self, repo: Repo, new_id: str) -> None:
        """Give a repo another id; requests for the old one are redirected."""
        del self.repos[repo.type, repo.id]
        self.renamed[repo.type, repo.id] = new_id
        repo.id = new_id
        self.repos[repo.type, new_id] = repo

    def add_token(self, token: str, name: str = "tester", access: frozenset[str] | set[str] = frozenset()) -> str:
        """Register a token with access to these gated and private repos; return it."""
        self.accounts[token] = Account(name, frozenset(access))
        return token

    def fault(self, pattern: str, **what: Any) -> Fault:
        """Add a fault for the next request (or `times` requests) whose path matches the glob; see Fault."""
        fault = Fault(pattern, **what)
        self.faults.add(fault)
        return fault

    def expire_signed_urls(self) -> None:
        """Invalidate all signed CDN URLs."""
        self._signing_epoch += 1

    def _answer(self, host: Host, request: Request) -> Response:
        try:
            if (fault := self.faults.take(host, request, carries_file=False)) and fault.status:
                response = _fault_response(fault, fault.status)
            else:
                response = self._route_cdn(request) if host == "cdn" else self._route_hub(request)
        except Refused as refused:
            response = refused.response()
        length = int(response.headers.get("Content-Length", len(response.body)))
        entry = Logged(host, request.method, request.path, request.raw_query, request.headers, response.status, length)
        self.log.add(entry)
        return response

    def _route_hub(self, request: Request) -> Response:
        account = self._account(request)
        segments = [unquote(segment) for segment in request.raw_path.strip("/").split("/")]
        match segments:
            case ["api", "whoami-v2"]:
                return _whoami(account)
            case ["api", "models", *rest]:
                return self._api(request, account, "model", rest)
            case ["api", "datasets", *rest]:
                return self._api(request, account, "dataset", rest)
            case ["api", "resolve-cache", "models", *rest]:
                return self._resolve_cached(request, account, "model", rest)
            case ["api", "resolve-cache", "datasets", *rest]:
                return self._resolve_cached(request, account, "dataset", rest)
            case ["datasets", *rest] if "resolve" in rest:
                return self._resolve(request, account, "dataset", rest)
            case [*rest] if "resolve" in rest:
                return self._resolve(request, account, "model", rest)
        raise Refused(404, None, "Sorry, we can't find the page you are looking for.")

    def _account(self, request: Request) -> Account | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token in self.accounts:
            return self.accounts[token]
        raise Refused(401, None, "Invalid credentials in Authorization header")

    def _repo(
        self, request: Request, account: Account | None, repo_type: RepoType, segments: list[str]
    ) -> tuple[Repo, list[str]]:
        """Split a path into a repo id of one or two segments, and the rest."""
        for length in (2, 1):
            repo_id = "/".join(segments[:length])
            if new_id := self.renamed.get((repo_type, repo_id)):
                target = request.raw_path.replace(f"/{repo_id}", f"/{new_id}", 1)
                query = f"?{request.raw_query}" if request.raw_query else ""
                raise Refused(307, None, f"moved to {new_id}", {"Location": target + query})
            repo = self.repos.get((repo_type, repo_id))
            if repo and not (repo.private and (account is None or repo.id not in account.access)):
                return repo, segments[length:]
        if account is None:
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        raise Refused(404, "RepoNotFound", "Repository not found")

    def _api(self, request: Request, account: Account | None, repo_type: RepoType, segments: list[str]) -> Response:
        repo, rest = self._repo(request, account, repo_type, segments)
        match rest:
            case []:
                return _json(answers.info(repo, repo.head(), request.query))
            case ["revision", *revision]:
                return _json(answers.info(repo, _commit(repo, "/".join(revision)), request.query))
            case ["tree", revision, *folder]:
                return self._tree(request, _commit(repo, revision), "/".join(folder))
            case ["paths-info", revision] if request.method == "POST":
                form = _form(request)
                expand = form.get("expand", ["false"])[0].lower() == "true"
                return _json(answers.paths_info(_commit(repo, revision), form.get("paths", []), expand=expand))
            case ["refs"]:
                return _json(answers.refs(repo, request.query))
            case ["commits", revision]:
                return _json(answers.commits(_commit(repo, revision), request.query))
            case ["auth-check"]:
                _check_gate(repo, account)
                return _json({})
        raise Refused(404, None, "Not found")

    def _tree(self, request: Request, commit: Commit, folder: str) -> Response:
        try:
            entries, following = answers.tree(commit, folder, request.query)
        except KeyError:
            message = f"{folder} does not exist on this revision"
            raise Refused(404, "EntryNotFound", message, {"X-Repo-Commit": commit.sha}) from None
        headers = {"Link": f'<{self.url}{request.raw_path}?{following}>; rel="next"'} if following else {}
        return _json(entries, headers=headers)

    def _resolve(self, request: Request, account: Account | None, repo_type: RepoType, segments: list[str]) -> Response:
        repo, rest = self._repo(request, account, repo_type, segments)
        if len(rest) < 3 or rest[0] != "resolve":
            raise Refused(404, None, "Not found")
        # The slashes of refs/pr/1 may be unescaped.
        length = 3 if rest[1] == "refs" else 1
        commit = _commit(repo, "/".join(rest[1 : 1 + length]))
        _check_gate(repo, account)
        path = "/".join(rest[1 + length :])
        file = _file(commit, path)
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        etag = f'"{file.etag}"'
        if file.sha256:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}
            if self.cdn:
                location = self._sign(f"/{repo.type}s/{repo.id}/{commit.sha}/{quote(path)}")
                return Response(302, headers | {"Location": location}, f"Found. Redirecting to {location}".encode())
        elif self.resolve_cache:
            location = f"/api/resolve-cache/{repo.type}s/{repo.id}/{commit.sha}/{quote(path)}?etag={quote(etag)}"
            return Response(307, headers | {"Location": location, "X-Linked-Etag": etag})
        return self._send_file("hub", request, file, headers | {"ETag": etag})

    def _resolve_cached(
        self, request: Request, account: Account | None, repo_type: RepoType, segments: list[str]
    ) -> Response:
        repo, rest = self._repo(request, account, repo_type, segments)
        _check_gate(repo, account)
        commit = _commit(repo, rest[0])
        file = _file(commit, "/".join(rest[1:]))
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes", "ETag": f'"{file.etag}"'}
        return self._send_file("hub", request, file, headers)

    def _route_cdn(self, request: Request) -> Response:
        if request.query.get("Signature") != [self._signature(request.path)]:
            body = (
                b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
            )
            return Response(403, {"Content-Type": "application/xml"}, body)
        repo_type, *segments = [unquote(segment) for segment in request.raw_path.strip("/").split("/")]
        for (kind, repo_id), repo in self.repos.items():
            place = [f"{kind}s", *repo_id.split("/")]
            if [repo_type, *segments[: len(place) - 1]] == place:
                sha, *path = segments[len(place) - 1 :]
                file = repo.commits[sha].files["/".join(path)]
                return self._send_file("cdn", request, file, {"ETag": f'"{file.etag[:32]}"', "Accept-Ranges": "bytes"})
        raise Refused(404, None, "NoSuchKey")

    def _sign(self, raw_path: str) -> str:
        return (
            f"{self.cdn_url}{raw_path}?Expires=1893456000&Signature={self._signature(unquote(raw_path))}&Key-Pair-Id=K1"
        )

    def _signature(self, path: str) -> str:
        return hmac.new(b"%d" % self._signing_epoch, path.encode(), hashlib.sha256).hexdigest()

    def _send_file(self, host: Host, request: Request, file: HubFile, headers: dict[str, str]) -> Response:
        fault = self.faults.take(host, request, carries_file=True) or Fault(request.path)
        if fault.expire:
            self.expire_signed_urls()
        size = file.size if fault.truncate_to is None else min(file.size, fault.truncate_to)
        headers = headers | {"Content-Type": "application/octet-stream"}
        wanted = None if fault.ignore_range or request.method == "HEAD" else request.headers.get("range")
        span = _range(wanted, size)
        if span is None:
            return Response(416, {"Content-Range": f"bytes */{size}"})
        start, stop = span
        partial = wanted is not None and RANGE.fullmatch(wanted) is not None
        if partial:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        body: Body
        if isinstance(file.content, bytes) or fault.corrupt_at is not None:
            body = _corrupted(file.read(start, stop), fault.corrupt_at, start)
        elif isinstance(file.content, Generated):
            body = file.content.body(start, stop)
        else:
            body = BlobRange(file.content, start, stop)
        return Response(206 if partial else 200, headers, body, fault.disturbance)


def _commit(repo: Repo, revision: str) -> Commit:
    try:
        return repo.head(revision)
    except KeyError:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}") from None


def _file(commit: Commit, path: str) -> HubFile:
    if path not in commit.files:
        raise Refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.sha})
    return commit.files[path]


def _check_gate(repo: Repo, account: Account | None) -> None:
    if not repo.gated or (account and repo.id in account.access):
        return
    if account is None:
        message = f"Access to {repo.type} {repo.id} is restricted. You must have access to it and be authenticated."
        raise Refused(401, "GatedRepo", message)
    message = f"Access to {repo.type} {repo.id} is restricted and you are not in the authorized list."
    raise Refused(403, "GatedRepo", message)


def _whoami(account: Account | None) -> Response:
    if account is None:
        raise Refused(401, None, "Invalid username or password.")
    token = {"displayName": "test", "role": "read"}
    return _json({"type": "user", "name": account.name, "orgs": [], "auth": {"accessToken": token}})


def _form(request: Request) -> dict[str, list[str]]:
    if "json" in request.headers.get("content-type", ""):
        return {
            name: value if isinstance(value, list) else [str(value)] for name, value in json.loads(request.body).items()
        }
    return parse_qs(request.body.decode())


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return start and stop of a Range header, or None if it is not satisfiable (RFC 9110, section 14)."""
    match = RANGE.fullmatch(header) if header else None
    if not match or match[0] == "bytes=-":
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    stop = min(size, int(match[2]) + 1) if match[2] else size
    return (start, stop) if start < size and start < stop else None


def _corrupted(data: bytes, offset: int | None, start: int) -> bytes:
    if offset is None or not start <= offset < start + len(data):
        return data
    at = offset - start
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _fault_response(fault: Fault, status: int) -> Response:
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    return _json({"error": f"fault {status}"}, status, headers)


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    body = json.dumps(value).encode()
    return Response(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)
