"""The Hub's API under /api/models and /api/datasets: handlers, and the values that they send as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import Response

from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.errors import IntegrityError, LlmstackError, NotFoundError
from llmstack.hub_server.error_answers import AnswerError, entry_not_found, needs_extract, not_authorized
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.paths import Target, path_of, quoted_path
from llmstack.hub_server.public_url import endpoint_of
from llmstack.hub_server.query_values import FLAGS, page_limit, read_flag, read_number, values_of
from llmstack.hub_server.repo_facts import Json
from llmstack.hub_server.repo_info import (
    ALWAYS,
    DECLARED,
    EXPANDABLE,
    FROM_CARD,
    FROM_WEIGHTS,
    SIBLINGS,
    basic,
    declared,
    entry,
    expanded,
    hub_date,
    siblings,
    weighed,
)
from llmstack.hub_server.repo_lists import PAGE, ListQuery
from llmstack.hub_server.repos import Files, Repo, Revision

T = TypeVar("T")

_MAX_PATHS = 20_000


async def get_whoami(_hub: Hub, request: Request, _target: Target) -> Response:
    """Answer who the token's owner is: every token is a reader's."""
    if not request.headers.get("Authorization"):
        raise not_authorized()
    access = {"type": "access_token", "accessToken": {"displayName": "read", "role": "read"}}
    user = {"type": "user", "id": "reader", "name": "reader", "fullname": "Reader", "orgs": [], "auth": access}
    return json_response(user)


def get_repos(hub: Hub, request: Request, target: Target) -> Response:
    """List the repos of a type that match a query."""
    repo_type = target.repo_type or "model"
    query = ListQuery.parse(repo_type, request.query_params)
    found = query.candidates(hub.repo_index.repos(repo_type))
    if query.needs_facts:
        found = hub.facts.select(found, query.accepts)
    if query.needs_weights:
        found = query.by_weights(found, hub.facts.all_weights(found))
    return _page(request, iter(found), query.limit, query.cursor, lambda repo: _listed(hub, repo.shown, query.fields))


def _listed(hub: Hub, revision: Revision, fields: frozenset[str]) -> Json:
    """Return a repo in a list; raises UnavailableError if its files cannot be read now."""
    value = basic(revision)
    if fields & (DECLARED | FROM_CARD):
        value |= declared(hub.facts.listed(revision))
    if fields & FROM_WEIGHTS and revision.files is not None:
        value |= weighed(hub.facts.weights(revision))
    if fields & SIBLINGS and revision.files is not None:
        with suppress(IntegrityError, NotFoundError):
            value |= siblings(hub.repo_index.files(revision), blobs=False)
    return {name: item for name, item in value.items() if name in fields | ALWAYS}


def get_repo(hub: Hub, request: Request, target: Target) -> Response:
    """Describe a repo at a revision (default: main); `expand` selects fields."""
    query = request.query_params
    names = [name for value in query.getlist("expand") + query.getlist("expand[]") for name in value.split(",") if name]
    repo_type = target.repo_type or "model"
    fields = expanded(repo_type, names) or EXPANDABLE[repo_type]
    blobs = bool(read_flag(values_of(query), "blobs"))
    # dfget names the revision in the query.
    revision = _revision(hub, replace(target, revision=target.revision or query.get("revision", "")))
    files = hub.repo_index.files(revision)
    value = basic(revision)
    if fields & (DECLARED | FROM_CARD):
        value |= declared(hub.facts.now(revision))
    if fields & FROM_WEIGHTS:
        # Downloads begin with this request, and do not need the headers.
        with suppress(LlmstackError):
            value |= weighed(hub.facts.weights(revision))
    if fields & SIBLINGS:
        value |= siblings(files, blobs=blobs)
    return json_response({name: item for name, item in value.items() if name in fields | ALWAYS})


def get_tree(hub: Hub, request: Request, target: Target) -> Response:
    """List a folder, or everything below it."""
    values = values_of(request.query_params)
    recursive, expand = (bool(read_flag(values, name)) for name in ("recursive", "expand"))
    limit, cursor = page_limit(values, PAGE), read_number(values, "cursor") or 0
    revision = _revision(hub, target)
    entries = tree(revision, hub.repo_index.files(revision), target.path.rstrip("/"), recursive=recursive)
    shown = _expanded(revision, entries) if expand else entries
    return _page(request, shown, limit, cursor, lambda item: item)


async def post_paths_info(hub: Hub, request: Request, target: Target) -> Response:
    """Describe the paths in a form or in a JSON object."""
    async with hub.forms.read(request) as body:
        return await hub.threads.run(_paths_info, hub, target, body)


def _paths_info(hub: Hub, target: Target, body: bytes) -> Response:
    # The content decides, not its type: curl and others send JSON as a form.
    paths, expand = _json_paths(body) if body.lstrip().startswith((b"{", b"[")) else _form_paths(body)
    revision = _revision(hub, target)
    found = paths_info(hub.repo_index.files(revision), paths)
    return json_response(list(_expanded(revision, found)) if expand else found)


def _form_paths(body: bytes) -> tuple[list[str], bool]:
    try:
        text = body.decode("utf-8", "surrogateescape")
        fields = parse_qs(text, keep_blank_values=True, max_num_fields=_MAX_PATHS)
    except ValueError as error:
        raise AnswerError(413, "TooLarge", f"the form has more than {_MAX_PATHS} fields") from error
    expand = fields.get("expand", ["false"])[-1].lower()
    # The Python client sends an empty list as a form with `expand` only.
    if not fields or fields.keys() - {"paths", "expand"} or expand not in FLAGS:
        raise _no_paths()
    return fields.get("paths", []), FLAGS[expand]


def _json_paths(body: bytes) -> tuple[list[str], bool]:
    try:
        value = json.loads(body)
        paths, expand = value["paths"], value.get("expand", False)
        paths = [paths] if isinstance(paths, str) else paths
        is_list = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
        valid = is_list and isinstance(expand, bool) and value.keys() <= {"paths", "expand"}
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise _no_paths()
    if len(paths) > _MAX_PATHS:
        raise AnswerError(413, "TooLarge", f"the list has more than {_MAX_PATHS} paths")
    return paths, expand


def _no_paths() -> AnswerError:
    example = '{"paths": ["a", "b"], "expand": false}'
    message = f"the body must be a URL-encoded form with `paths` and `expand`, or JSON as in {example}"
    return AnswerError(400, "BadRequest", message)


def get_commits(hub: Hub, request: Request, target: Target) -> Response:
    """List the one known commit, on the first page."""
    values = values_of(request.query_params)
    page, limit = read_number(values, "p") or 0, page_limit(values, PAGE)
    found = commits(_revision(hub, target))
    return json_response([] if page else found[:limit], headers={"X-Total-Count": str(len(found))})


def get_discussions(hub: Hub, _request: Request, target: Target) -> Response:
    """Answer that a repo has no discussions and pull requests."""
    _repo(hub, target)
    return json_response({"discussions": [], "count": 0, "start": 0, "numClosedDiscussions": 0})


def get_refs(hub: Hub, request: Request, target: Target) -> Response:
    """List the branches and tags of a repo, and its pull requests if asked to."""
    pull_requests = bool(read_flag(values_of(request.query_params), "include_prs"))
    return json_response(refs(_repo(hub, target), pull_requests=pull_requests))


def get_auth_check(hub: Hub, _request: Request, target: Target) -> Response:
    """Answer 200 for a repo that exists."""
    _repo(hub, target)
    return json_response({})


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. It is ASCII: names may contain lone surrogates."""
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(body, status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})


def _repo(hub: Hub, target: Target) -> Repo:
    return hub.repo_index.find(target.repo_type or "model", target.repo_id)


def _revision(hub: Hub, target: Target) -> Revision:
    return hub.repo_index.revision(target.repo_type or "model", target.repo_id, target.revision or DEFAULT_REVISION)


def _page(request: Request, items: Iterator[T], limit: int, cursor: int, show: Callable[[T], Json]) -> Response:
    """Return a page of items, with a link to the next one; a page of none has no link, which would lead to itself."""
    found = list(islice(items, cursor, cursor + limit + 1))
    shown = list(map(show, found[:limit]))
    if len(found) <= limit or not limit:
        return json_response(shown)
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    following = urlencode([*pairs, ("cursor", str(cursor + limit))], errors="replace")
    url = f"{endpoint_of(request)}{quoted_path(path_of(request))}?{following}"
    return json_response(shown, headers={"Link": f'<{url}>; rel="next"'})


def refs(repo: Repo, *, pull_requests: bool) -> Json:
    """Return a repo's branches and tags: every carried revision but main is a tag."""
    value: dict[str, list[Json]] = {"branches": [], "converts": [], "tags": []}
    if pull_requests:
        value["pullRequests"] = []
    for revision in repo.revisions:
        name, commit = revision.name, revision.commit
        if name == commit:
            continue
        if name.startswith("refs/convert/"):
            short = name.removeprefix("refs/convert/")
            value["converts"].append({"name": short, "ref": name, "targetCommit": commit})
        elif name.startswith("refs/pr/"):
            if pull_requests:
                number = name.removeprefix("refs/pr/")
                value["pullRequests"].append({"name": number, "ref": name, "targetCommit": commit})
        elif name == DEFAULT_REVISION:
            value["branches"].append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit})
        elif not name.startswith("refs/"):
            value["tags"].append({"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit})
    return dict(value)


def commits(revision: Revision) -> list[Json]:
    """Return the one known commit in the form of a history."""
    return [
        {
            "id": revision.commit,
            "title": f"Carried as {revision.name}",
            "message": "",
            "authors": [],
            "date": hub_date(revision.created) or "1970-01-01T00:00:00.000Z",
        }
    ]


def _expanded(revision: Revision, entries: Iterable[Json]) -> Iterator[Json]:
    """Yield entries with the last commit that changed them: the one known."""
    commit = commits(revision)[0]
    last = {name: commit[name] for name in ("id", "title", "date")}
    return ({**entry, "lastCommit": last} for entry in entries)


def tree(revision: Revision, files: Files, folder: str, *, recursive: bool) -> Iterator[Json]:
    """Yield the entries of a folder ("" is the root), or all below it; raises AnswerError if it does not exist.

    The cost is that of the entries that are taken, not of all files.
    """
    below = files.below(folder)
    if not below and revision.needs_extract:
        raise needs_extract(revision.repo_id, folder or "everything", revision.image)
    if not below and folder:
        raise entry_not_found(revision.repo_id, folder, revision.commit)
    start = len(folder) + 1 if folder else 0
    number, previous = below.start, ""
    while number < below.stop:
        path = files.paths[number]
        # Files are sorted: a folder is new unless the path before is in it, too.
        slash = path.find("/", max(start, _common(path, previous)) if recursive else start)
        while slash >= 0:
            yield _directory(path[:slash])
            slash = path.find("/", slash + 1) if recursive else -1
        if not recursive and "/" in path[start:]:
            number = files.after(path[: path.index("/", start)])
            continue
        yield entry(files, files.files[path])
        number, previous = number + 1, path


def _common(path: str, previous: str) -> int:
    """Return the length of the folder that two paths share, with its slash."""
    end = 0
    while (slash := path.find("/", end)) >= 0 and previous.startswith(path[end : slash + 1], end):
        end = slash + 1
    return end


def paths_info(files: Files, paths: Iterable[str]) -> list[Json]:
    """Return what is known of each path; unknown ones are left out, as on the Hub."""
    found = []
    for path in dict.fromkeys(paths):
        if file := files.files.get(path):
            found.append(entry(files, file))
        elif path and files.below(path):
            found.append(_directory(path))
    return found


def _directory(path: str) -> Json:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
