"""The handlers of `/v2/` (OCI distribution-spec): read-only, with manifests made on request."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from llmstack.errors import UsageError
from llmstack.hf.hub_urls import repo_path
from llmstack.hub_server.error_answers import no_route
from llmstack.hub_server.file_route import send_bytes, send_file
from llmstack.hub_server.hub_state import Hub
from llmstack.hub_server.image_files import check_readable
from llmstack.hub_server.paths import Target
from llmstack.hub_server.registry_api.registry_errors import API_VERSION, invalid_digest, invalid_number, unknown_blob
from llmstack.hub_server.repos import Found, Repo
from llmstack.oci.reference import Digest
from llmstack.oci.spec import DOCKER_MANIFEST, INDEX, MANIFEST

_LLAMA_CPP = "llama-cpp"


async def get_base(_hub: Hub, _request: Request, _target: Target) -> Response:
    """Tell a client that this is a registry, and that its credentials are accepted."""
    return _json({})


def get_catalog(hub: Hub, request: Request, _target: Target) -> Response:
    """List the names of all repos, in lower case: clients of registries take no other."""
    return _paged(request, "/v2/_catalog", "repositories", hub.artifacts.names(), {})


def get_tags(hub: Hub, request: Request, target: Target) -> Response:
    """List the tags of a repo."""
    repo = _repo(hub, target)
    name = repo_path(target.repo_id, repo.repo_type)
    return _paged(request, f"{_path(repo)}/tags/list", "tags", hub.artifacts.tags(repo), {"name": name})


def get_manifest(hub: Hub, request: Request, target: Target) -> Response:
    """Answer with the manifest of a tag or a digest: a ModelPack manifest, or that of ollama for its clients."""
    repo, reference = _repo(hub, target), target.revision
    agent = request.headers.get("User-Agent", "")
    is_llama_cpp = agent.startswith(_LLAMA_CPP)
    if ":" in reference:
        artifact = hub.artifacts.by_digest(repo, _digest(reference))
    elif is_llama_cpp or _accepts_docker_only(request):
        artifact = hub.artifacts.ollama(repo, reference, is_llama_cpp=is_llama_cpp)
    else:
        artifact = hub.artifacts.by_tag(repo, reference)
    headers = {
        **API_VERSION,
        "Content-Type": artifact.manifest.media_type,
        "Docker-Content-Digest": artifact.digest,
        "ETag": f'"{artifact.digest}"',
        # The same tag has two manifests.
        "Vary": "Accept, User-Agent",
    }
    return Response(artifact.manifest.data, headers=headers)


async def get_blob(hub: Hub, request: Request, target: Target) -> Response:
    """Answer with a blob or a range of it: a file, or what was generated for a manifest."""
    digest = _digest(target.revision)
    repo, found = await hub.threads.run(_find_blob, hub, target, digest)
    headers = {
        **API_VERSION,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": digest,
        "ETag": f'"{digest}"',
        # ollama sends its range requests to this address, and fails without one.
        "Location": f"{_path(repo)}/blobs/{digest}",
    }
    if isinstance(found, Found):
        return await send_file(hub, request, found, headers)
    return send_bytes(request, found, headers)


def get_referrers(hub: Hub, _request: Request, target: Target) -> Response:
    """List what refers to a manifest: nothing. An unknown one gets no 404: it would mean that this API is missing."""
    _repo(hub, target)
    _digest(target.revision)
    return _json({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}, {"Content-Type": INDEX})


async def get_nothing(_hub: Hub, _request: Request, _target: Target) -> Response:
    """Answer for any other path of the API, so that it is not taken for the page of a repo."""
    raise no_route()


def _find_blob(hub: Hub, target: Target, digest: Digest) -> tuple[Repo, Found | bytes]:
    repo = _repo(hub, target)
    if found := hub.artifacts.file(repo, digest):
        check_readable(found.revision, found.files, found.file)
        return repo, found
    generated = hub.artifacts.generated(repo, digest)
    if generated is None:
        raise unknown_blob(repo, digest)
    return repo, generated


def _repo(hub: Hub, target: Target) -> Repo:
    return hub.artifacts.find(target.repo_type or "model", target.repo_id)


def _path(repo: Repo) -> str:
    return f"/v2/{quote(repo_path(repo.repo_id, repo.repo_type))}"


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except UsageError as error:
        raise invalid_digest(text[:100]) from error


def _accepts_docker_only(request: Request) -> bool:
    """Tell whether a client reads Docker's manifests and not those of OCI: ollama does."""
    accept = ",".join(request.headers.getlist("Accept"))
    return DOCKER_MANIFEST in accept and MANIFEST not in accept


def _paged(request: Request, path: str, member: str, names: Sequence[str], head: Mapping[str, str]) -> Response:
    """Return a sorted list, or the part of it that `n` and `last` ask for (distribution-spec, "Listing Tags").

    Raises AnswerError for an invalid `n`.
    """
    digits, last = request.query_params.get("n", ""), request.query_params.get("last", "")
    names = names[bisect_right(names, last) :] if last else names
    if digits and not (digits.isascii() and digits.isdigit()):
        raise invalid_number(digits[:100])
    limit = int(digits) if digits and len(digits) < 10 else len(names)
    page = names[:limit]
    following = urlencode({"n": limit, "last": page[-1]}) if 0 < len(page) < len(names) else ""
    link = {"Link": f'<{path}?{following}>; rel="next"'} if following else {}
    return _json({**head, member: list(page)}, link)


def _json(value: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json.dumps(value), headers={**API_VERSION, "Content-Type": "application/json", **(headers or {})})
