"""A repo's page at one revision: facts, snippets, the files of one folder, and the README."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from llmstack.errors import LlmstackError
from llmstack.hf.front_matter import README, split_card
from llmstack.hub_server.error_answers import entry_not_found
from llmstack.hub_server.facts_index import MAX_README
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.pages.model_numbers import Numbers, numbers_of, quantizations
from llmstack.hub_server.pages.readme_html import render
from llmstack.hub_server.pages.repo_list import page_number
from llmstack.hub_server.pages.snippets import snippets
from llmstack.hub_server.paths import Target, blob_url, file_url, folder_url
from llmstack.hub_server.public_url import endpoint_of, prefix_of
from llmstack.hub_server.repo_facts import CONFIG, Facts, Weights
from llmstack.hub_server.repos import Files, Repo, Revision

ENTRIES = 500
MAX_TAGS = 20
_MAX_CONFIG = 1024 * 1024


def values(hub: Hub, request: Request, target: Target) -> dict[str, object] | Response:
    """Return the values of the template, or a redirect if the path is a file.

    Raises AnswerError if the path does not exist, and what reading the repo's files raises.
    """
    repo = hub.repo_index.find(target.repo_type or "model", target.repo_id)
    revision = hub.repo_index.revision(repo.repo_type, repo.repo_id, target.revision) if target.revision else repo.shown
    files = hub.repo_index.files(revision)
    folder = target.path.rstrip("/")
    if folder in files.files:
        url = blob_url if is_browser(request) else file_url
        return RedirectResponse(prefix_of(request) + url(revision, folder))
    entries = entries_of(files, folder)
    if folder and not entries:
        raise entry_not_found(revision.repo_id, folder, revision.commit)
    last = max(1, -(-len(entries) // ENTRIES))
    number = min(page_number(request.query_params), last)
    facts = hub.facts.now(revision)
    locked = is_locked(revision, files)
    token = "Authorization" in request.headers
    endpoint = None if locked else endpoint_of(request)
    has_readme = not folder and README in files.files
    return {
        "repo": repo,
        "revision": revision,
        "locked": locked,
        "is_former": revision not in repo.revisions,
        "facts": _shown(facts),
        "count": len(files.files) if files.files else revision.files,
        "folder": folder,
        "crumbs": crumbs(folder),
        "entries": entries[(number - 1) * ENTRIES : number * ENTRIES],
        "page": number,
        "last": last,
        "previous_url": f"?page={number - 1}#files" if number > 1 else None,
        "next_url": f"?page={number + 1}#files" if number < last else None,
        "snippets": [] if folder else snippets(revision, files, facts, endpoint, token=token),
        "numbers": Numbers() if folder else _numbers(hub, revision),
        "quantizations": [] if folder else quantizations(revision, files, None if token else endpoint),
        "has_readme": has_readme,
        "readme": _readme(hub, revision, files, prefix_of(request)) if has_readme else None,
        "owner": _owner(repo),
    }


def is_browser(request: Request) -> bool:
    """Tell whether a person looks at the page; programs get the file."""
    return "text/html" in request.headers.get("Accept", "")


def _numbers(hub: Hub, revision: Revision) -> Numbers:
    """Return the numbers of a model; those of none if its headers cannot be read now."""
    if revision.repo_type != "model" or revision.files is None:
        return Numbers()
    weights, config = Weights(), None
    with suppress(LlmstackError):
        weights = hub.facts.weights(revision)
    with suppress(LlmstackError, ValueError, RecursionError):
        config = json.loads(hub.repo_index.read(revision, CONFIG, _MAX_CONFIG) or b"{}")
    return numbers_of(weights, config if isinstance(config, dict) else {})


def is_locked(revision: Revision, files: Files) -> bool:
    """Tell whether files are in compressed layers, so that clients cannot load them."""
    compressed = {digest for digest, layer in files.layers.items() if layer.compressed}
    in_them = (not compressed.isdisjoint(file.layers) for file in files.files.values())
    return revision.needs_extract or (bool(compressed) and any(in_them))


def _readme(hub: Hub, revision: Revision, files: Files, prefix: str) -> Markup | None:
    """Return a revision's README as HTML; None if it is missing, too long, or cannot be read now."""
    try:
        data = hub.repo_index.read(revision, README, MAX_README)
    except LlmstackError:
        return None
    if data is None:
        return None
    markdown = split_card(data.decode(errors="replace"))
    # The links differ between revisions of the same image, and with the repos that are carried.
    key = (revision.digest, f"{prefix}{folder_url(revision)} {hub.repo_index.count}")
    is_carried = hub.repo_index.is_listed
    return Markup(hub.rendered.get(key, lambda: render(markdown, revision, files, prefix, is_carried)))  # noqa: S704 - sanitized


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a folder with the total size and number of its files (`files` is None for a file)."""

    name: str
    path: str
    size: int
    files: int | None = None


def entries_of(files: Files, folder: str) -> list[Entry]:
    """Return the entries of a folder ("" is the root), folders first; none if it does not exist."""
    start = len(folder) + 1 if folder else 0
    sizes: dict[str, tuple[int, int]] = {}
    found = []
    for number in files.below(folder):
        path = files.paths[number]
        file = files.files[path]
        slash = path.find("/", start)
        if slash >= 0:
            size, count = sizes.get(path[:slash], (0, 0))
            sizes[path[:slash]] = size + file.size, count + 1
        else:
            found.append(Entry(path[start:], path, file.size))
    return [Entry(path[start:], path, size, count) for path, (size, count) in sizes.items()] + found


def crumbs(folder: str) -> list[tuple[str, str]]:
    """Return the name and path of each parent of `folder`, and of itself."""
    parts = folder.split("/") if folder else []
    return [(name, "/".join(parts[: number + 1])) for number, name in enumerate(parts)]


def _shown(facts: Facts) -> dict[str, object]:
    others = [tag for tag in facts.tags if tag not in {facts.pipeline_tag, facts.library}]
    return {"task": facts.pipeline_tag, "library": facts.library, "tags": others[:MAX_TAGS]}


def _owner(repo: Repo) -> str:
    return repo.repo_id.partition("/")[0] if "/" in repo.repo_id else ""
