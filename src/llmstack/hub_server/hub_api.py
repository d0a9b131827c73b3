"""The Hub's API under /api/models and /api/datasets: handlers, and the values that they send as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import Response

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hf.snapshot import HubFile, parse_date
from llmstack.hub_server.error_answers import AnswerError, entry_not_found, needs_extract, not_authorized
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.model_card import card_of
from llmstack.hub_server.paths import Target, endpoint_of, flag, path_of, quoted_path
from llmstack.hub_server.repos import Files, Repo, Revision

Json = dict[str, Any]

# The entries of one page of a list or a tree, as on the Hub.
PAGE = 1000
_MAX_PATHS = 20_000


async def get_whoami(_hub: Hub, request: Request, _target: Target) -> Response:
    """Answer who the token's owner is: every token is a reader's."""
    if not request.headers.get("Authorization"):
        raise not_authorized()
    access = {"type": "access_token", "accessToken": {"displayName": "read", "role": "read"}}
    user = {"type": "user", "id": "reader", "name": "reader", "fullname": "Reader", "orgs": [], "auth": access}
    return json_response(user)


def get_repos(hub: Hub, request: Request, target: Target) -> Response:
    """List the repos of a type."""
    query = request.query_params
    repos = hub.repo_index.repos(target.repo_type)
    found = matching(repos, search=query.get("search", ""), author=query.get("author", ""))
    return _paged(request, (summary(repo.shown) for repo in found))


def get_repo(hub: Hub, request: Request, target: Target) -> Response:
    """Describe a repo at a revision (default: main); `expand` selects fields."""
    # dfget names the revision in the query.
    asked = target.revision or request.query_params.get("revision", "")
    revision = _revision(hub, replace(target, revision=asked))
    files = hub.repo_index.files(revision)
    blobs = flag(request, "blobs")
    value = summary(revision) | _from_card(revision, card_of(hub.repo_index, revision))
    value["siblings"] = [_sibling(file, blobs=blobs) for file in files.in_order()]
    value["usedStorage"] = revision.size
    expand = {*request.query_params.getlist("expand"), *request.query_params.getlist("expand[]")}
    return json_response({name: item for name, item in value.items() if not expand or name in expand | _ALWAYS})


def get_tree(hub: Hub, request: Request, target: Target) -> Response:
    """List a folder, or everything below it."""
    revision = _revision(hub, target)
    files = hub.repo_index.files(revision)
    entries = tree(revision, files, target.path.rstrip("/"), recursive=flag(request, "recursive"))
    return _paged(request, _expanded(revision, entries) if flag(request, "expand") else entries)


async def post_paths_info(hub: Hub, request: Request, target: Target) -> Response:
    """Describe the paths in a form or in a JSON object."""
    is_json = request.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
    async with hub.forms.read(request) as body:
        return await hub.threads.run(_paths_info, hub, target, _json_paths if is_json else _form_paths, body)


def _paths_info(hub: Hub, target: Target, parse: Callable[[bytes], tuple[list[str], bool]], body: bytes) -> Response:
    paths, expand = parse(body)
    revision = _revision(hub, target)
    found = paths_info(hub.repo_index.files(revision), paths)
    return json_response(list(_expanded(revision, found)) if expand else found)


def _form_paths(body: bytes) -> tuple[list[str], bool]:
    try:
        fields = parse_qs(body.decode("utf-8", "surrogateescape"), max_num_fields=_MAX_PATHS)
    except ValueError as error:
        raise AnswerError(413, "TooLarge", f"the form has more than {_MAX_PATHS} fields") from error
    return fields.get("paths", []), fields.get("expand", [""])[-1].lower() in {"true", "1"}


def _json_paths(body: bytes) -> tuple[list[str], bool]:
    try:
        value = json.loads(body)
        paths = [value["paths"]] if isinstance(value["paths"], str) else value["paths"]
        valid = isinstance(paths, list) and all(isinstance(path, str) for path in paths)
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise AnswerError(400, "BadRequest", 'the body must be a JSON object with a list of strings "paths"')
    if len(paths) > _MAX_PATHS:
        raise AnswerError(413, "TooLarge", f"the list has more than {_MAX_PATHS} paths")
    return paths, value.get("expand") is True


def get_commits(hub: Hub, request: Request, target: Target) -> Response:
    """List the one known commit, on the first page."""
    found = commits(_revision(hub, target))
    page = found if not _number(request.query_params.get("p"), 0) else []
    return json_response(page, headers={"X-Total-Count": str(len(found))})


def get_discussions(hub: Hub, _request: Request, target: Target) -> Response:
    """Answer that a repo has no discussions and pull requests."""
    _repo(hub, target)
    return json_response({"discussions": [], "count": 0, "start": 0, "numClosedDiscussions": 0})


def get_refs(hub: Hub, _request: Request, target: Target) -> Response:
    """List the branches and tags of a repo."""
    return json_response(refs(_repo(hub, target)))


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


def _paged(request: Request, items: Iterator[Json]) -> Response:
    query = request.query_params
    limit = min(_number(query.get("limit"), PAGE) or PAGE, PAGE)
    cursor = _number(query.get("cursor"), 0)
    found = list(islice(items, cursor, cursor + limit + 1))
    if len(found) <= limit:
        return json_response(found)
    pairs = [(name, value) for name, value in query.multi_items() if name != "cursor"]
    following = urlencode([*pairs, ("cursor", str(cursor + limit))], errors="replace")
    url = f"{endpoint_of(request)}{quoted_path(path_of(request))}?{following}"
    return json_response(found[:limit], headers={"Link": f'<{url}>; rel="next"'})


def _number(digits: str | None, default: int) -> int:
    return int(digits) if digits and digits.isascii() and digits.isdigit() and len(digits) < 10 else default


_ALWAYS = {"_id", "id", "sha"}


def summary(revision: Revision) -> Json:
    """Return the fields of a repo that do not need its files."""
    value: Json = {
        "_id": revision.commit[:24],
        "id": revision.repo_id,
        "author": revision.repo_id.partition("/")[0] if "/" in revision.repo_id else None,
        "sha": revision.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [f"license:{revision.license}"] if revision.license else [],
        "cardData": {"license": revision.license} if revision.license else {},
    }
    if date := hub_date(revision.created):
        value["lastModified"] = value["createdAt"] = date
    if revision.repo_type == "model":
        value["modelId"] = revision.repo_id
    return value


def _from_card(revision: Revision, card: Json) -> Json:
    """Return the fields that the Hub takes from a repo's card."""
    tags = [str(tag) for tag in card["tags"]] if isinstance(card.get("tags"), list) else []
    value: Json = {name: card[name] for name in ("pipeline_tag", "library_name") if isinstance(card.get(name), str)}
    license_tag = [f"license:{revision.license}"] if revision.license else []
    return {**value, "tags": list(dict.fromkeys([*value.values(), *tags, *license_tag])), "cardData": card}


def matching(repos: Iterable[Repo], *, search: str, author: str) -> list[Repo]:
    """Return the repos of an author (default: any) whose ID contains each word of `search`, ignoring case."""
    words = search.casefold().split()
    return [
        repo
        for repo in repos
        if all(word in repo.repo_id.casefold() for word in words)
        and (not author or repo.repo_id.casefold().startswith(f"{author.casefold()}/"))
    ]


def refs(repo: Repo) -> Json:
    """Return a repo's branches and tags: every carried revision but main is a tag."""
    value: dict[str, list[Json]] = {"branches": [], "converts": [], "tags": []}
    for revision in repo.revisions:
        name, commit = revision.name, revision.commit
        if name == commit:
            continue
        if name.startswith("refs/convert/"):
            short = name.removeprefix("refs/convert/")
            value["converts"].append({"name": short, "ref": name, "targetCommit": commit})
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
        yield entry(files.files[path])
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
            found.append(entry(file))
        elif path and files.below(path):
            found.append(_directory(path))
    return found


def entry(file: IndexedFile) -> Json:
    """Return a file's entry in a tree."""
    known = HubFile(file.path, file.size, file.oid)
    value: Json = {"type": "file", "oid": known.git_oid, "size": file.size, "path": file.path}
    if known.is_lfs:
        value["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": len(known.pointer)}
    return value


def _directory(path: str) -> Json:
    return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}


def _sibling(file: IndexedFile, *, blobs: bool) -> Json:
    value: Json = {"rfilename": file.path}
    if blobs:
        known = entry(file)
        value |= {"size": file.size, "blobId": known["oid"]}
        if lfs := known.get("lfs"):
            value["lfs"] = {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return value


def hub_date(created: str | None) -> str | None:
    """Return an ISO 8601 time in the form that Hub clients parse; None if it is invalid."""
    try:
        return parse_date(created or "").strftime("%Y-%m-%dT%H:%M:%S.000Z")
    except ValueError:
        return None
