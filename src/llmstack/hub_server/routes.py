"""The table of routes: which function answers which path."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from llmstack.hub_server import hub_api as api
from llmstack.hub_server.error_answers import headers_of, no_git
from llmstack.hub_server.file_route import get_file, get_raw
from llmstack.hub_server.hub_state import Handler, Hub
from llmstack.hub_server.metrics import CONTENT_TYPE
from llmstack.hub_server.pages import get_asset, get_file_page, get_repo_list, get_repo_page
from llmstack.hub_server.paths import BLOB_PAGE, CLONE, FILE, RAW, REPO_PAGE, TREE_PAGE, Target, Template
from llmstack.hub_server.public_url import endpoint_of
from llmstack.hub_server.registry_api import registry_routes as registry

READ = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Route:
    """A path, the function that answers it, and its methods; a public one needs no token."""

    template: Template
    handler: Handler
    methods: frozenset[str] = READ
    public: bool = False


async def get_healthz(hub: Hub, _request: Request, _target: Target) -> Response:
    """Answer 200 after the first refresh; raises UnavailableError before it."""
    hub.repo_index.check_listed()
    return Response("ok\n", media_type="text/plain")


async def get_metrics(hub: Hub, _request: Request, _target: Target) -> Response:
    """Answer with the metrics."""
    index = hub.repo_index
    body = hub.metrics.text(repos=index.count, refreshed=index.refreshed)
    return Response(body, headers={"Content-Type": CONTENT_TYPE})


def get_clone(hub: Hub, request: Request, target: Target) -> Response:
    """Tell a person who runs `git clone` what to run instead; git shows the body of an error that is plain text.

    Raises what finding the repo raises. Without the token, the answer does not tell whether it exists.
    """
    if request.state.has_token:
        hub.repo_index.find(target.repo_type or "model", target.repo_id)
    with_token = "Authorization" in request.headers or not request.state.has_token
    error = no_git(target.repo_type or "model", target.repo_id, endpoint_of(request), with_token=with_token)
    return Response(f"{error.message}\n", error.status, headers_of(error), "text/plain")


# The first match answers.
ROUTES = (
    Route(Template("/healthz"), get_healthz, public=True),
    Route(Template("/metrics"), get_metrics),
    Route(Template("/api/whoami-v2"), api.get_whoami),
    Route(Template("/api/{types}"), api.get_repos),
    Route(Template("/api/{types}/{repo}/revision/{revision}"), api.get_repo),
    Route(Template("/api/{types}/{repo}/tree/{revision}/{path?}"), api.get_tree),
    Route(Template("/api/{types}/{repo}/paths-info/{revision}"), api.post_paths_info, frozenset({"POST"})),
    Route(Template("/api/{types}/{repo}/commits/{revision}"), api.get_commits),
    Route(Template("/api/{types}/{repo}/refs"), api.get_refs),
    Route(Template("/api/{types}/{repo}/auth-check"), api.get_auth_check),
    Route(Template("/api/{types}/{repo}/discussions"), api.get_discussions),
    Route(Template("/api/{types}/{repo}"), api.get_repo),
    Route(Template("/v2"), registry.get_base),
    Route(Template("/v2/_catalog"), registry.get_catalog),
    Route(Template("/v2/{types?}{repo}/tags/list"), registry.get_tags),
    Route(Template("/v2/{types?}{repo}/manifests/{revision}"), registry.get_manifest),
    Route(Template("/v2/{types?}{repo}/blobs/{revision}"), registry.get_blob),
    Route(Template("/v2/{types?}{repo}/referrers/{revision}"), registry.get_referrers),
    Route(Template("/v2/{path}"), registry.get_nothing),
    Route(Template("/"), get_repo_list),
    Route(Template("/{types}"), get_repo_list),
    Route(Template("/-/{path}"), get_asset),
    Route(FILE, get_file),
    Route(RAW, get_raw),
    Route(CLONE, get_clone, public=True),
    Route(TREE_PAGE, get_repo_page),
    Route(BLOB_PAGE, get_file_page),
    Route(REPO_PAGE, get_repo_page),
)


def find_route(path: str) -> tuple[Route, Target] | None:
    """Return the route of a normalized path, and what the path names."""
    for route in ROUTES:
        if target := route.template.match(path):
            return route, target
    return None
