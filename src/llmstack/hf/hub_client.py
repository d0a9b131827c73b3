"""Read from the Hugging Face Hub: commits, file lists and files.

HF_ENDPOINT, HF_TOKEN and the stored token have the same meaning as in huggingface_hub.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The error of the HTTP library, which depends on the version of huggingface_hub.
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # it has no __all__
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, no __all__

from llmstack import __version__
from llmstack.errors import (
    IntegrityError,
    LlmstackError,
    NotAuthorizedError,
    NotFoundError,
    UnavailableError,
    UsageError,
    on_side,
)
from llmstack.hf.front_matter import license_of
from llmstack.hf.hub_urls import repo_url
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot, parse_date
from llmstack.net import (
    Backoff,
    Client,
    ConnectionLostError,
    Response,
    display_url,
    read_limited,
    read_resuming,
    read_with_retry,
)
from llmstack.net.http_headers import next_link, requested_delay
from llmstack.net.page_limits import PageLimits
from llmstack.net.retry import RETRIED_STATUS
from llmstack.net.urls import check_proxies

# The Hub's CDN rejects a GET of more than 50 GB, so larger files are read in ranges.
RANGE_WINDOW = 32 * 10**9
_MAX_ERROR = 64 * 1024
# A page lists up to 1,000 files.
_MAX_PAGE = 16 * 1024 * 1024
_MAX_FILES = 1_000_000
_MAX_PAGES = 2_000
_MAX_SIZE = 2**63 - 1
_REPO_ID = re.compile(r"(?:[\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)
_COMMIT = _OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# There is no error code for it; huggingface_hub checks the message, too.
_DISABLED = "Access to this resource is disabled."


class HubClient:
    """The Hub at `endpoint` (default: HF_ENDPOINT), with the token of the environment; safe in threads."""

    def __init__(self, client: Client, endpoint: str | None = None) -> None:
        check_proxies()
        self._client = client
        self.token = _token()
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError(
                "the Hub token contains invalid characters",
                hint="set HF_TOKEN to the complete token, or log in again with: hf auth login",
            )
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._api = HfApi(
            endpoint=self.endpoint,
            token=self.token or False,
            library_name="llmstack",
            library_version=__version__,
        )
        self._headers = build_hf_headers(
            token=self.token or False, library_name="llmstack", library_version=__version__
        )

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Resolve a revision to its commit: one request.

        Raises NotFoundError for an unknown repo or revision, NotAuthorizedError, UnavailableError.
        """
        # repo_info ignores the timeout of its session.
        timeout = self._client.timeout

        def resolve() -> RepoInfo:
            found = self._api.repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=timeout)
            if not _COMMIT.fullmatch(str(found.sha)):
                raise ValueError("no commit")
            return RepoInfo(
                repo_id=repo_id,
                repo_type=repo_type,
                revision=revision,
                commit=str(found.sha),
                last_modified=_utc(getattr(found, "last_modified", None)),
                license=_license(getattr(found, "card_data", None)),
                gated=bool(getattr(found, "gated", False)),
                renamed_to=_renamed_to(repo_id, found.id),
            )

        return self._ask(repo_id, repo_type, revision, resolve)

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """List the commit's files: one request per 1,000 files, and one for the commit's date."""
        with on_side("source"):
            files = sorted(self._tree(info), key=lambda file: file.path.encode(errors="surrogatepass"))
            return Snapshot(info, self.commit_date(info), tuple(files))

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`, not verified.

        Raises NotFoundError, NotAuthorizedError, UnavailableError.
        """
        for begin in range(start, stop, RANGE_WINDOW):
            chunks = read_resuming(
                self._client,
                lambda byte_range, backoff: self._open(info, file, byte_range, backoff),
                what=f"{info.repo_id}: {file.path}",
                size=file.size,
                start=begin,
                stop=min(stop, begin + RANGE_WINDOW),
                home=lambda: self.endpoint,
            )
            with on_side("source", file.path):
                yield from chunks

    def mismatch(self, file: HubFile) -> LlmstackError:
        """Return the error for bytes that do not have the hash that the Hub lists."""
        return IntegrityError(
            f"{file.path}: the bytes sent by the Hub do not match the hash it lists",
            hint="rerun; if the error stays, the file is damaged on the Hub",
            side="source",
        )

    def _open(self, info: RepoInfo, file: HubFile, byte_range: str | None, backoff: Backoff) -> Response:
        url = hf_hub_url(
            info.repo_id, file.path, repo_type=info.repo_type, revision=info.commit, endpoint=self.endpoint
        )
        headers = {**self._headers, "Range": byte_range} if byte_range else self._headers
        response = self._client.request("GET", url, headers, backoff=backoff)
        if response.status in {200, 206}:
            return response
        raise self._error(info, f"{info.repo_id}: {file.path}", response)

    def _error(self, info: RepoInfo, what: str, response: Response) -> LlmstackError:
        code, status = response.headers.get("X-Error-Code", ""), response.status
        message = response.headers.get("X-Error-Message", "")
        with contextlib.suppress(LlmstackError):
            read_limited(response, _MAX_ERROR)
        if status == 403 and not code and not (response.geturl() or "").startswith(self.endpoint):
            # The signed URL has expired: a retry at the Hub gets a new one.
            return ConnectionLostError(f"{what}: the storage of the Hub responded with 403", side="source")
        if status == 451 or (status == 403 and message == _DISABLED):
            return self._disabled(info.repo_id, info.repo_type)
        if code == "GatedRepo" or status == 403:
            return self._gated(info.repo_id, info.repo_type)
        if status == 401:
            return self._not_found(info.repo_id, info.repo_type)
        if status == 404:
            hint = "the repo has changed on the Hub: rerun the command"
            return NotFoundError(f"{what}: not found at commit {info.commit[:12]}", hint=hint, side="source")
        return UnavailableError(f"{what}: {display_url(self.endpoint)} responded with {status}", side="source")

    def _tree(self, info: RepoInfo) -> Iterator[HubFile]:
        """Yield the commit's files, page by page.

        HfApi.list_repo_tree would add its own retries, without messages, to ours.
        """
        url = self._api_url(info, f"tree/{info.commit}?recursive=true&expand=false")
        requested = {url}
        limits = PageLimits(f"{display_url(url)}: the file list", _MAX_FILES, _MAX_PAGES)
        while True:
            response, data = self._fetch(url)
            if response.status != 200:
                raise self._error(info, f"{info.repo_id}: file list", response)
            try:
                page = json.loads(data)
                yield from [_file(entry) for entry in page if entry["type"] == "file"]
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise UnavailableError(f"{display_url(url)}: the response is not a file list") from error
            link = next_link(response.headers)
            if not link:
                return
            limits.count(len(page))
            url = _next_page(url, link)
            if url in requested:
                raise UnavailableError(f"{display_url(url)}: the file list repeats a page")
            requested.add(url)

    def commit_date(self, info: RepoInfo) -> str:
        """Return the date of the commit. `last_modified` changes with the repo, but the image of a commit must not.

        HfApi.list_repo_commits would read the complete history.
        """
        url = self._api_url(info, f"commits/{info.commit}?limit=1")
        response, data = self._fetch(url)
        if response.status in RETRIED_STATUS:
            raise UnavailableError(f"{display_url(url)}: responded with {response.status}")
        if response.status == 200:
            with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
                return _utc(parse_date(json.loads(data)[0]["date"]))
        # Most mirrors do not have this route.
        return info.last_modified

    def _api_url(self, info: RepoInfo, rest: str) -> str:
        return f"{self.endpoint}/api/{info.repo_type}s/{quote(info.repo_id)}/{rest}"

    def _fetch(self, url: str) -> tuple[Response, bytes]:
        """Return a response of the Hub's API with its body; retry if the connection drops."""

        def send(backoff: Backoff) -> Response:
            return self._client.request("GET", url, self._headers, backoff=backoff)

        return read_with_retry(send, self._client.backoff(), _MAX_PAGE)

    def _ask(self, repo_id: str, repo_type: RepoType, revision: str, resolve: Callable[[], RepoInfo]) -> RepoInfo:
        """Call huggingface_hub with our retry policy, and convert its exceptions."""
        backoff = self._client.backoff()
        what = f"{repo_type} {repo_id}: {display_url(self.endpoint)}"
        while True:
            try:
                return resolve()
            except GatedRepoError as error:
                raise self._gated(repo_id, repo_type) from error
            except RevisionNotFoundError as error:
                raise NotFoundError(
                    f"{repo_type} {repo_id} has no revision {revision}",
                    hint=f"see its branches and tags at {self._page(repo_id, repo_type)}/tree/main",
                    side="source",
                ) from error
            except (RepositoryNotFoundError, EntryNotFoundError) as error:
                raise self._not_found(repo_id, repo_type) from error
            except HfHubHTTPError as error:
                failure = self._api_error(error, what, repo_id, repo_type)
                if error.response.status_code not in RETRIED_STATUS:
                    raise failure from error
                backoff.wait(failure, requested_delay(error.response.headers))
            except OfflineModeIsEnabled as error:
                raise UnavailableError(
                    f"{repo_type} {repo_id}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE", side="source"
                ) from error
            except HFValidationError as error:
                raise UsageError(f"{repo_id!r} is not a Hugging Face repo id") from error
            except TransportError as error:
                backoff.wait(UnavailableError(f"{what}: {error}", side="source"))
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise UnavailableError(f"{what} sent an invalid response", side="source") from error

    def _api_error(self, error: HfHubHTTPError, what: str, repo_id: str, repo_type: RepoType) -> LlmstackError:
        status = error.response.status_code
        if status == 451 or isinstance(error, DisabledRepoError):
            return self._disabled(repo_id, repo_type)
        if status in {401, 403}:
            return self._not_found(repo_id, repo_type)
        return UnavailableError(f"{what} responded with {status}", side="source")

    def _not_found(self, repo_id: str, repo_type: RepoType) -> LlmstackError:
        if self.token and not self._token_is_good():
            return NotAuthorizedError(
                f"{display_url(self.endpoint)}: the token is invalid",
                hint="check HF_TOKEN, or log in again with: hf auth login",
                side="source",
            )
        access = "check that your token has access" if self.token else "set HF_TOKEN if the repo is private"
        other = "--type dataset" if repo_type == "model" else "--type model"
        return NotFoundError(
            f"{repo_type} {repo_id}: not found on {display_url(self.endpoint)}",
            hint=f"check the spelling, or add {other}; {access}",
            side="source",
        )

    def _token_is_good(self) -> bool:
        response = self._client.request("GET", f"{self.endpoint}/api/whoami-v2", self._headers)
        with contextlib.suppress(LlmstackError):
            read_limited(response, 1024 * 1024)
        return response.status != 401

    def _gated(self, repo_id: str, repo_type: RepoType) -> NotAuthorizedError:
        hint = f"accept its license on {self._page(repo_id, repo_type)}"
        hint += " with the account of your token" if self.token else ", then set HF_TOKEN or run: hf auth login"
        return NotAuthorizedError(f"{repo_type} {repo_id} is gated", hint=hint, side="source")

    def _disabled(self, repo_id: str, repo_type: RepoType) -> NotAuthorizedError:
        hint = f"see {self._page(repo_id, repo_type)}"
        return NotAuthorizedError(f"{repo_type} {repo_id} is disabled on the Hub", hint=hint, side="source")

    def _page(self, repo_id: str, repo_type: RepoType) -> str:
        return repo_url(repo_id, repo_type, display_url(self.endpoint))


def _token() -> str | None:
    try:
        return get_token()
    except OSError as error:
        raise UsageError(
            f"the stored Hub token cannot be read: {error.strerror}",
            hint=f"make {error.filename} readable, or set HF_TOKEN_PATH to another file",
        ) from error


def _file(entry: dict[str, Any]) -> HubFile:
    path, size, lfs = entry["path"], entry["size"], entry.get("lfs")
    oid = lfs["oid"] if lfs else entry["oid"]
    if not isinstance(path, str) or type(size) is not int or not 0 <= size <= _MAX_SIZE or not _OID.fullmatch(oid):
        raise ValueError(path)
    return HubFile(path, size, oid)


def _utc(time: datetime | None) -> str:
    """Return a time for OCI annotations: RFC 3339, in UTC, to the second.

    Raises OverflowError if the time in UTC is outside the years 1 to 9999.
    """
    time = (time or datetime.fromtimestamp(0, UTC)).astimezone(UTC)
    return f"{time.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _license(card: object) -> str | None:
    return license_of(getattr(card, "license", None), getattr(card, "license_name", None))


def _next_page(url: str, link: str) -> str:
    """Return the URL of the next page: the Hub of `url`, with the query of `link`.

    Mirrors pass on links of huggingface.co, which may be unreachable, and the token is for HF_ENDPOINT only.
    """
    try:
        query = urlsplit(urljoin(url, link)).query
    except ValueError:
        query = ""
    if not query:
        raise UnavailableError(f"{display_url(url)}: the link to the next page of the file list is invalid")
    return f"{url.partition('?')[0]}?{query}"


def _renamed_to(repo_id: str, current_id: object) -> str | None:
    """Return the current id of a renamed repo: the Hub redirects the old id."""
    if current_id == repo_id or not isinstance(current_id, str) or not _REPO_ID.fullmatch(current_id):
        return None
    return current_id
