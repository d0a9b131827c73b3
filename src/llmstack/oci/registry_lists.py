"""The lists of a registry that come in pages: tags, referrers, repositories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import urljoin

from llmstack.errors import LlmstackError, UnavailableError
from llmstack.net import Backoff, Response, read_with_retry
from llmstack.net.http_headers import next_link
from llmstack.net.page_limits import PageLimits
from llmstack.oci.reference import is_repository
from llmstack.oci.registry import Registry
from llmstack.oci.spec import parse_object

_MAX_PAGE = 16 * 1024 * 1024

MAX_REPOSITORIES = 100_000
_MAX_PAGES = 10_000

T = TypeVar("T")


def read_list(
    registry: Registry,
    path: str,
    scopes: tuple[str, ...],
    what: str,
    limits: PageLimits,
    parse: Callable[[bytes, str], Iterable[T]],
) -> set[T] | None:
    """Return the entries of all pages of a list, None if the registry has no such list.

    `what` is the operation, for errors. `parse` returns the entries of a page and gets the name of the list.
    """

    def read_page(backoff: Backoff) -> Response:
        response = registry.request("GET", path, scopes, backoff=backoff)
        if response.status not in {200, 404}:
            raise registry.error(response, what)
        return response

    found: set[T] = set()
    while True:
        response, data = read_with_retry(read_page, registry.client.backoff(), _MAX_PAGE)
        if response.status == 404:
            return None
        following = next_link(response.headers)
        new = set(parse(data, limits.what)) - found
        found |= new
        # A page without new entries ends the list: the links of a faulty registry may form a loop.
        if not following or not new:
            return found
        limits.count(len(new))
        path = urljoin(urljoin(registry.url, path), following)


def list_repositories(registry: Registry) -> list[str] | None:
    """Return the repositories of a registry that these credentials may list; None if the registry lists none.

    Raises UnavailableError.
    """
    what = f"{registry.host}: cannot list the repositories"
    limits = PageLimits(f"{registry.host}: the list of repositories", MAX_REPOSITORIES, _MAX_PAGES)
    try:
        found = read_list(registry, "/v2/_catalog?n=1000", ("registry:catalog:*",), what, limits, _repositories)
    except UnavailableError:
        raise
    except LlmstackError:
        # Most hosted registries refuse, each with its own status.
        return None
    return None if found is None else sorted(found)


def _repositories(data: bytes, what: str) -> list[str]:
    names = parse_object(data, what).get("repositories") or []
    return [name for name in names if isinstance(name, str) and is_repository(name)] if isinstance(names, list) else []
