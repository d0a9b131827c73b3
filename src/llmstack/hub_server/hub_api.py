"""The Hub's API under /api/models and /api/datasets, as values to be sent as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hf.snapshot import HubFile
from llmstack.hub_server.error_answers import entry_not_found, needs_extract
from llmstack.hub_server.model_card import card_of
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Files, Repo, Revision
from llmstack.hub_server.routes import ApiCall

Json = dict[str, Any]
Items = Iterator[Json]


def info(shelf: RepoIndex, call: ApiCall, *, blobs: bool, expand: frozenset[str]) -> Json:
    """Return a repo's info at a revision (main by default); `expand` names the only fields that are wanted."""
    revision = shelf.revision(call.kind, call.repo_id, call.revision or DEFAULT_REVISION)
    value = summary(revision) | _from_card(revision, card_of(shelf, revision))
    files = shelf.files(revision)
    value["siblings"] = [_sibling(file, blobs=blobs) for file in files.in_order()]
    value["usedStorage"] = revision.size
    return {name: item for name, item in value.items() if not expand or name in expand | {"_id", "id", "sha"}}


def summary(revision: Revision) -> Json:
    """Return what lists and infos tell of a repo."""
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
    if revision.kind == "model":
        value["modelId"] = revision.repo_id
    return value


def _from_card(revision: Revision, card: Json) -> Json:
    """Return what the Hub reads out of a repo's card."""
    tags = [str(tag) for tag in card["tags"]] if isinstance(card.get("tags"), list) else []
    value: Json = {name: card[name] for name in ("pipeline_tag", "library_name") if isinstance(card.get(name), str)}
    license_tag = [f"license:{revision.license}"] if revision.license else []
    return {**value, "tags": list(dict.fromkeys([*value.values(), *tags, *license_tag])), "cardData": card}


def matching(repos: Iterable[Repo], *, search: str, author: str) -> list[Repo]:
    """Return the repos whose id holds `search`, whatever the case, and that are an author's, where one is named."""
    words = search.casefold().split()
    return [
        repo
        for repo in repos
        if all(word in repo.repo_id.casefold() for word in words)
        and (not author or repo.repo_id.casefold().startswith(f"{author.casefold()}/"))
    ]


def refs(repo: Repo) -> Json:
    """Return a repo's branches and tags: what was carried under another name than main counts as a tag."""
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
    """Return the one commit that is known."""
    return [
        {
            "id": revision.commit,
            "title": f"{revision.name} as it was carried",
            "message": "",
            "authors": [],
            "date": hub_date(revision.created) or "1970-01-01T00:00:00.000Z",
        }
    ]


def tree(revision: Revision, files: Files, folder: str, *, recursive: bool) -> Iterator[Json]:
    """Yield what lies in a folder (the empty one: the repo), or below it; raises AnswerError if there is none."""
    prefix = f"{folder}/" if folder else ""
    seen: set[str] = set()
    empty = True
    for file in files.in_order():
        if not file.path.startswith(prefix):
            continue
        empty = False
        parents = file.path[len(prefix) :].split("/")[:-1]
        for depth in range(1, 1 + (len(parents) if recursive else min(1, len(parents)))):
            path = prefix + "/".join(parents[:depth])
            if path not in seen:
                seen.add(path)
                yield _directory(path)
        if recursive or not parents:
            yield entry(file)
    if empty and revision.needs_extract:
        raise needs_extract(revision.repo_id, folder or "everything", revision.image)
    if empty and folder:
        raise entry_not_found(revision.repo_id, folder, revision.commit)


def paths_info(files: Files, paths: Iterable[str]) -> list[Json]:
    """Return what is known of each path; those that are not there are left out, as on the Hub."""
    wanted = dict.fromkeys(paths)
    # Clients mostly ask for files, which need no look at all the others.
    folders = set() if wanted.keys() <= files.files.keys() else _folders(files.files)
    found = []
    for path in wanted:
        if file := files.files.get(path):
            found.append(entry(file))
        elif path in folders:
            found.append(_directory(path))
    return found


def _folders(paths: Iterable[str]) -> set[str]:
    """Return every folder that one of the paths lies in."""
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def page(items: Iterator[Json], cursor: int, limit: int) -> tuple[list[Json], int | None]:
    """Return `limit` items from `cursor` on, and the next page's cursor, None where that was the last."""
    taken = list(islice(items, cursor, cursor + limit + 1))
    return taken[:limit], cursor + limit if len(taken) > limit else None


def entry(file: IndexedFile) -> Json:
    """Return a file as a tree lists it."""
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


def hub_date(text: str | None) -> str | None:
    """Return an ISO 8601 time in the one form that Hub clients read; None for what is none."""
    try:
        time = datetime.fromisoformat(text or "")
        return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    except (ValueError, OverflowError):
        return None


def flag(query: Mapping[str, str], name: str) -> bool:
    """Tell whether a query's parameter says yes, as old clients (`True`) or new ones (`true`, `1`) do."""
    return query.get(name, "").lower() in {"true", "1"}
