"""Asking the Hugging Face Hub, through huggingface_hub: commits, file lists, and the files' bytes.

HF_ENDPOINT, HF_TOKEN and the stored token mean what they mean everywhere.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

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

# Which HTTP library raises it depends on the version of huggingface_hub, which takes it from there too.
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # it has no __all__
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, no __all__

from llmstack import __version__
from llmstack.errors import LlmstackError, NotAuthorizedError, NotFoundError, UnavailableError, UsageError, on_side
from llmstack.hf.hub_urls import repo_url
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
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
from llmstack.net.http_urls import redirected
from llmstack.net.proxies import check_proxies
from llmstack.net.retry import RETRIED_STATUS

T = TypeVar("T")

# The hub's CDN refuses a single GET of more than 50 GB; a series of ranges gets such a file.
RANGE_WINDOW = 32 * 10**9
_MAX_ERROR = 64 * 1024
# A page holds a thousand files.
_MAX_PAGE = 16 * 1024 * 1024
_COMMIT = _OID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# The hub has no code for it; huggingface_hub knows it by its words, too.
_DISABLED = "Access to this resource is disabled."


class HubClient:
    """The hub that HF_ENDPOINT names, with the token of the environment; safe in threads."""

    def __init__(self, client: Client) -> None:
        check_proxies()
        self._client = client
        self.token = _token()
        if self.token and not (self.token.isascii() and self.token.isprintable()):
            raise UsageError(
                "the token of the hub holds a character that no token has",
                hint="copy it anew into HF_TOKEN, or log in again with: hf auth login",
            )
        self.endpoint = constants.ENDPOINT.rstrip("/")
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
        # Without a timeout of its own it waits for ever, whatever its session's is.
        timeout = self._client.timeout
        found = self._ask(
            repo_id,
            repo_type,
            revision,
            lambda: self._api.repo_info(repo_id, revision=revision, repo_type=repo_type, timeout=timeout),
        )
        if not _COMMIT.fullmatch(str(found.sha)):
            raise UnavailableError(f"{self.endpoint} names no commit for {repo_id}@{revision}", side="source")
        return RepoInfo(
            repo_id=repo_id,
            repo_type=repo_type,
            revision=revision,
            commit=str(found.sha),
            last_modified=_utc(getattr(found, "last_modified", None)),
            license=_license(getattr(found, "card_data", None)),
            gated=bool(getattr(found, "gated", False)),
        )

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """List the commit's files: a request per thousand files, and one for the commit's date."""
        with on_side("source"):
            files = sorted(self._tree(info), key=lambda file: file.path.encode(errors="surrogatepass"))
            return Snapshot(info, self.commit_date(info), tuple(files))

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`, not verified.

        Raises NotFoundError, NotAuthorizedError, UnavailableError as the hub answers.
        """
        for begin in range(start, stop, RANGE_WINDOW):
            chunks = read_resuming(
                self._client,
                lambda byte_range, backoff: self._open(info, file, byte_range, backoff),
                what=f"{info.repo_id}: {file.path}",
                size=file.size,
                start=begin,
                stop=min(stop, begin + RANGE_WINDOW),
            )
            with on_side("source", file.path):
                yield from chunks

    def _open(self, info: RepoInfo, file: HubFile, byte_range: str | None, backoff: Backoff) -> Response:
        url = hf_hub_url(
            info.repo_id, file.path, repo_type=info.repo_type, revision=info.commit, endpoint=self.endpoint
        )
        headers = {**self._headers, "Range": byte_range} if byte_range else self._headers
        response = self._client.request("GET", url, headers, backoff=backoff)
        if response.status in {200, 206}:
            return response
        raise self._refused(info, f"{info.repo_id}: {file.path}", response)

    def _refused(self, info: RepoInfo, what: str, response: Response) -> LlmstackError:
        code, status = response.headers.get("X-Error-Code", ""), response.status
        message = response.headers.get("X-Error-Message", "")
        with contextlib.suppress(LlmstackError):
            read_limited(response, _MAX_ERROR)
        if status == 403 and not code and not (response.geturl() or "").startswith(self.endpoint):
            # A signed URL that is not good any more: asking the hub again gives a new one.
            return ConnectionLostError(f"{what}: the storage behind the hub answers 403", side="source")
        if status == 451 or (status == 403 and message == _DISABLED):
            return self._disabled(info.repo_id, info.repo_type)
        if code == "GatedRepo" or status == 403:
            return self._gated(info.repo_id, info.repo_type)
        if status == 401:
            return self._not_found(info.repo_id, info.repo_type)
        if status == 404:
            hint = "the repo changed on the hub meanwhile: run the command again"
            return NotFoundError(f"{what} is not there at commit {info.commit[:12]}", hint=hint, side="source")
        return UnavailableError(f"{what}: {display_url(self.endpoint)} answers {status}", side="source")

    def _tree(self, info: RepoInfo) -> Iterator[HubFile]:
        """Yield the commit's files, page by page.

        HfApi.list_repo_tree tries again by a policy of its own, silently and for minutes on top of ours.
        """
        url = self._api_url(info, f"tree/{info.commit}?recursive=true&expand=false")
        headers: Mapping[str, str] = self._headers
        asked = {url}
        while True:
            response, data = self._fetch(url, headers)
            if response.status != 200:
                raise self._refused(info, f"the file list of {info.repo_id}", response)
            try:
                yield from [_file(entry) for entry in json.loads(data) if entry["type"] == "file"]
            except (ValueError, LookupError, TypeError) as error:
                raise UnavailableError(f"{display_url(url)} answers with something that is no file list") from error
            following = next_link(response.headers)
            if not following:
                return
            url, headers = redirected(url, following, headers)
            if url in asked:
                raise UnavailableError(f"{display_url(url)} answers with the same page of the file list again")
            asked.add(url)

    def commit_date(self, info: RepoInfo) -> str:
        """Return the commit's own date; `last_modified` moves with the repo, and an image must not.

        HfApi.list_repo_commits would page through the whole history, so the first page is asked for here.
        """
        url = self._api_url(info, f"commits/{info.commit}?limit=1")
        response, data = self._fetch(url, self._headers)
        if response.status in RETRIED_STATUS:
            # No other date in its place: the same commit gives the same image.
            raise UnavailableError(f"{display_url(url)} answers {response.status}")
        if response.status == 200:
            with contextlib.suppress(ValueError, LookupError, TypeError):
                return _utc(datetime.fromisoformat(json.loads(data)[0]["date"]))
        # Mirrors of the hub seldom have this route.
        return info.last_modified

    def _api_url(self, info: RepoInfo, rest: str) -> str:
        return f"{self.endpoint}/api/{info.repo_type}s/{quote(info.repo_id)}/{rest}"

    def _fetch(self, url: str, headers: Mapping[str, str]) -> tuple[Response, bytes]:
        """Return an answer of the hub's API whole; one that breaks off is asked for again."""

        def send(backoff: Backoff) -> Response:
            return self._client.request("GET", url, headers, backoff=backoff)

        return read_with_retry(send, self._client.backoff(), _MAX_PAGE)

    def _ask(self, repo_id: str, repo_type: RepoType, revision: str, call: Callable[[], T]) -> T:
        """Call huggingface_hub, try again as everywhere else, and turn its exceptions into ours."""
        backoff = self._client.backoff()
        what = f"asking {display_url(self.endpoint)} for {repo_type} {repo_id}"
        while True:
            try:
                return call()
            except GatedRepoError as error:
                raise self._gated(repo_id, repo_type) from error
            except RevisionNotFoundError as error:
                raise NotFoundError(
                    f"{repo_type} {repo_id} has no revision {revision}",
                    hint=f"its branches and tags: {self._page(repo_id, repo_type)}/tree/main",
                    side="source",
                ) from error
            except (RepositoryNotFoundError, EntryNotFoundError) as error:
                raise self._not_found(repo_id, repo_type) from error
            except HfHubHTTPError as error:
                failed = self._failed(error, what, repo_id, repo_type)
                if error.response.status_code not in RETRIED_STATUS:
                    raise failed from error
                backoff.wait(failed, requested_delay(error.response.headers))
            except OfflineModeIsEnabled as error:
                raise UnavailableError(
                    f"{what}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE where you ferry", side="source"
                ) from error
            except HFValidationError as error:
                raise UsageError(f"{repo_id!r} is not a Hugging Face repo id") from error
            except TransportError as error:
                backoff.wait(UnavailableError(f"{what}: {error}", side="source"))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise UnavailableError(f"{what}: its answer cannot be understood", side="source") from error

    def _failed(self, error: HfHubHTTPError, what: str, repo_id: str, repo_type: RepoType) -> LlmstackError:
        status = error.response.status_code
        if status == 451 or isinstance(error, DisabledRepoError):
            return self._disabled(repo_id, repo_type)
        if status in {401, 403}:
            return self._not_found(repo_id, repo_type)
        return UnavailableError(f"{what}: it answers {status}", side="source")

    def _not_found(self, repo_id: str, repo_type: RepoType) -> LlmstackError:
        if self.token and not self._token_is_good():
            return NotAuthorizedError(
                f"{display_url(self.endpoint)} does not accept the token",
                hint="check HF_TOKEN, or log in again with: hf auth login",
                side="source",
            )
        kind = "token may not see it" if self.token else "if it is private, set HF_TOKEN"
        other = "--type dataset" if repo_type == "model" else "--type model"
        return NotFoundError(
            f"{repo_type} {repo_id} is not on {display_url(self.endpoint)}",
            hint=f"check the spelling; {'your ' if self.token else ''}{kind}; or is it {other}?",
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
        hint = f"its page may say why: {self._page(repo_id, repo_type)}"
        return NotAuthorizedError(f"{repo_type} {repo_id} is disabled by the hub", hint=hint, side="source")

    def _page(self, repo_id: str, repo_type: RepoType) -> str:
        return repo_url(repo_id, repo_type, display_url(self.endpoint))


def _token() -> str | None:
    try:
        return get_token()
    except OSError as error:
        raise UsageError(
            f"the stored token of the hub cannot be read: {error.strerror}",
            hint=f"make {error.filename} readable, or name another place in HF_TOKEN_PATH",
        ) from error


def _file(entry: dict[str, Any]) -> HubFile:
    path, size, lfs = entry["path"], entry["size"], entry.get("lfs")
    oid = lfs["oid"] if lfs else entry["oid"]
    if not isinstance(path, str) or type(size) is not int or size < 0 or not _OID.fullmatch(oid):
        raise ValueError(path)
    return HubFile(path, size, oid)


def _utc(time: datetime | None) -> str:
    """Return a time as the OCI annotations want it: RFC 3339, in UTC, to the second."""
    return (time or datetime.fromtimestamp(0, UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _license(card: object) -> str | None:
    """Return the license that a card declares; the name it gives where it says `other`."""
    declared = getattr(card, "license", None)
    if declared == "other":
        declared = getattr(card, "license_name", None) or declared
    if isinstance(declared, list):
        declared = " OR ".join(map(str, declared))
    return None if declared is None else str(declared)
