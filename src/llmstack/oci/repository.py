"""One repository of a registry as a BlobStore (distribution-spec v1.1)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urljoin

from llmstack.errors import IntegrityError, LlmstackError, NotAuthorizedError, UsageError
from llmstack.net import Backoff, Client, ConnectionLostError, Response, read_resuming, read_whole
from llmstack.net.cancel import GRACE
from llmstack.net.http_client import discard, redirected
from llmstack.net.retry import RETRIED_STATUS, asked_wait
from llmstack.oci.auth import CredentialLookup
from llmstack.oci.reference import DOCKER_HUB, Digest, Reference
from llmstack.oci.registry import Registry
from llmstack.oci.spec import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    MAX_MANIFEST_SIZE,
    Descriptor,
    RawManifest,
    media_type_of,
    parse_object,
)
from llmstack.oci.store import BlobReader

_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
_MAX_TAGS_PAGE = 16 * 1024 * 1024
# What a layer's PATCH may be answered with when the upload session is gone: the layer starts over.
_SESSION_LOST = frozenset({401, 404, 416})
# How many times as long as any other answer that of the PUT may take, which makes a layer of the bytes.
COMMIT_PATIENCE = 10


class Repository:
    """Reads and writes one repository; implements BlobStore. `write` asks for the right to push as well."""

    def __init__(self, registry: Registry, repository: str, *, write: bool = False) -> None:
        self._registry = registry
        self._repository = repository
        self._scopes = (f"repository:{repository}:{'pull,push' if write else 'pull'}",)

    @property
    def name(self) -> str:
        """Return registry and repository, as in a reference."""
        return f"{self._registry.host}/{self._repository}"

    @property
    def _client(self) -> Client:
        return self._registry.client

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest or an index; see BlobReader."""
        what = f"reading {self.name}{'@' if ':' in reference else ':'}{reference}"

        def send(backoff: Backoff) -> Response:
            response = self._get(f"manifests/{reference}", {"Accept": _ACCEPT}, backoff)
            if response.status != 200:
                raise self._registry.error(response, what)
            return response

        response, data = read_whole(send, self._client.backoff(), MAX_MANIFEST_SIZE)
        expected = reference if ":" in reference else response.headers.get("Docker-Content-Digest")
        document = RawManifest("", data)
        if expected and document.digest != expected:
            raise IntegrityError(f"{what}: the bytes do not match their digest {expected[:80]}")
        return replace(document, media_type=media_type_of(document.json()))

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a blob's bytes; see BlobReader."""
        what = f"reading {self.name}@{blob.digest}"

        def open_range(byte_range: str | None, backoff: Backoff) -> Response:
            response = self._get(f"blobs/{blob.digest}", {"Range": byte_range} if byte_range else {}, backoff)
            if response.status not in {200, 206}:
                raise self._registry.error(response, what)
            return response

        return read_resuming(self._client, open_range, what=what, size=blob.size, start=start, stop=stop)

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        tags: set[str] = set()
        path: str | None = self._path("tags/list?n=1000")
        while path:
            response, data = read_whole(partial(self._tags_page, path), self._client.backoff(), _MAX_TAGS_PAGE)
            if response.status == 404:
                return []
            following = _NEXT.search(response.headers.get("Link", ""))
            page = parse_object(data, "tag list").get("tags") or []
            new = {str(tag) for tag in page} - tags
            tags |= new
            # A registry that pages in a circle must not keep us.
            path = urljoin(urljoin(self._registry.url, path), following[1]) if following and new else None
        return sorted(tags)

    def digest_of(self, tag: str) -> Digest:
        """Return the digest that a tag names, without reading what it names; raises as `manifest` does."""
        response = self._registry.request("HEAD", self._path(f"manifests/{tag}"), self._scopes, {"Accept": _ACCEPT})
        if response.status != 200:
            raise self._registry.error(response, f"looking for {self.name}:{tag}")
        discard(response)
        try:
            return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except UsageError:
            return self.manifest(tag).digest

    def _tags_page(self, path: str, backoff: Backoff) -> Response:
        response = self._registry.request("GET", path, self._scopes, backoff=backoff)
        if response.status not in {200, 404}:
            raise self._registry.error(response, f"listing the tags of {self.name}")
        return response

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the blob is there (HEAD)."""
        return self._has(digest, self._client.backoff())

    def _has(self, digest: Digest, backoff: Backoff) -> bool:
        response = self._registry.request("HEAD", self._path(f"blobs/{digest}"), self._scopes, backoff=backoff)
        if response.status in {200, 404}:
            discard(response)
            return response.status == 200
        raise self._registry.error(response, f"looking for {self.name}@{digest}")

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:
        """Mount a blob from another repository of this registry (distribution-spec, "Mounting a blob").

        A registry that will not mount, for whatever reason, gets the bytes: false, no error.
        """
        if not isinstance(source, Repository) or source._registry.host != self._registry.host:
            return False
        query = f"blobs/uploads/?mount={blob.digest}&from={source._repository}"
        try:
            response = self._registry.request("POST", self._path(query), (*self._scopes, *source._scopes))
        except NotAuthorizedError:
            return False
        discard(response)
        if response.status == 202:
            self._cancel(self._location(response))
        return response.status == 201

    def write_blob(self, make_chunks: Callable[[], Iterable[bytes]]) -> tuple[Digest, int]:
        """Upload a stream by one streamed PATCH, as `docker push` does; see BlobStore.

        Content-Range chunks are not used: several registries refuse or mishandle them, and the common ones cannot
        resume a broken PATCH either, so a broken upload starts over. All its requests share one count of tries.
        """
        backoff = self._client.backoff()
        while True:
            stream = _HashedStream(make_chunks())
            try:
                # What the bytes come from, a connection to the hub say, is not left open while this one waits.
                with contextlib.closing(stream):
                    return self._upload(stream, backoff)
            except (_UploadBrokenError, ConnectionLostError) as broken:
                if stream.error:
                    raise stream.error from None
                if isinstance(broken, _UploadBrokenError):
                    backoff.wait(broken.error, broken.retry_after)
                else:
                    backoff.wait(broken)

    def put_manifest(self, document: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index; see BlobStore."""
        path = self._path(f"manifests/{tag or document.digest}")
        backoff = self._client.backoff()
        while True:
            response = self._registry.request(
                "PUT", path, self._scopes, {"Content-Type": document.media_type}, document.data, backoff
            )
            what = f"writing {self.name}:{tag or document.digest}"
            if response.status in {200, 201, 202}:
                discard(response)
                # Under a tag a registry takes whatever arrives.
                if response.headers.get("Docker-Content-Digest") in {None, document.digest}:
                    return
                error: LlmstackError = IntegrityError(f"{what}: {self._registry.host} got other bytes than were sent")
            else:
                error = self._registry.error(response, what)
            if not isinstance(error, IntegrityError):
                raise error
            # Where two write the same manifest at once, distribution may read back what the other has half written.
            backoff.wait(error)

    def delete_manifest(self, digest: Digest) -> bool:
        """Delete a manifest, with a right of its own that many logins do not have; see BlobStore."""
        scopes = (f"repository:{self._repository}:delete",)
        try:
            response = self._registry.request("DELETE", self._path(f"manifests/{digest}"), scopes)
        except NotAuthorizedError:
            return False
        if response.status in {200, 202, 204, 404}:
            discard(response)
            return True
        error = self._registry.error(response, f"deleting {self.name}@{digest}")
        # 405 is the distribution spec's word for it; registries say 400 (Docker Hub) and 501 as well.
        if response.status in {400, 405, 501} or isinstance(error, NotAuthorizedError):
            return False
        raise error

    def _upload(self, stream: _HashedStream, backoff: Backoff) -> tuple[Digest, int]:
        what = f"uploading a layer to {self.name}"
        no_body = {"Content-Length": "0"}
        response = self._registry.request("POST", self._path("blobs/uploads/"), self._scopes, no_body, backoff=backoff)
        if response.status != 202:
            raise self._registry.error(response, what)
        discard(response)
        location = self._location(response)
        try:
            response = self._registry.stream("PATCH", location, self._scopes, stream, backoff)
            if response.status not in {200, 201, 202, 204}:
                raise self._upload_error(response, what)
            discard(response)
            location = self._location(response)
            stream.check(what)
            digest = Digest("sha256:" + stream.digest.hexdigest())
            self._commit(location, digest, what, backoff)
        except BaseException:
            self._cancel(location)
            raise
        return digest, stream.size

    def _commit(self, location: str, digest: Digest, what: str, backoff: Backoff) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={digest.replace(':', '%3A')}"
        # A registry on object storage copies the whole layer before it answers.
        patience = self._client.timeout * COMMIT_PATIENCE
        response = self._registry.request(
            "PUT", url, self._scopes, {"Content-Length": "0"}, backoff=backoff, timeout=patience
        )
        if response.status in {200, 201, 202, 204}:
            discard(response)
            return
        error = self._upload_error(response, what)
        # A repeated PUT finds its session gone when the first one was carried out but its answer was lost.
        if not (isinstance(error, _UploadBrokenError) and self._has(digest, backoff)):
            raise error

    def _upload_error(self, response: Response, what: str) -> LlmstackError:
        error = self._registry.error(response, what)
        if response.status in RETRIED_STATUS | _SESSION_LOST:
            return _UploadBrokenError(error, asked_wait(response.headers))
        return error

    def _cancel(self, location: str) -> None:
        """Give an upload session up (DELETE), briefly; a registry that will not hear of it times it out by itself."""
        if self._client.cancel.expired:
            # It has been silent for as long as an interrupted run may wait.
            return
        seconds = min(GRACE, self._client.timeout) / 2
        # distribution wants the right to delete for it, whoever's upload it is; others need not know that right.
        with contextlib.suppress(LlmstackError):
            for scopes in (self._scopes, (f"repository:{self._repository}:pull,push,delete",)):
                try:
                    response = self._registry.give_up(location, scopes, seconds)
                except ConnectionLostError:
                    # A registry hangs up on who sent more than it wanted, be it a moment after its answer.
                    response = self._registry.give_up(location, scopes, seconds)
                discard(response)
                if response.status not in {401, 403}:
                    return

    def _location(self, response: Response) -> str:
        """Return where an upload goes on; raises UnavailableError where that would be in plain HTTP after HTTPS."""
        base, location = response.geturl() or self._registry.url, response.headers.get("Location")
        return redirected(base, location, {})[0] if location else base

    def _get(self, path: str, headers: dict[str, str], backoff: Backoff | None = None) -> Response:
        return self._registry.request("GET", self._path(path), self._scopes, headers, backoff=backoff)

    def _path(self, rest: str) -> str:
        return f"/v2/{self._repository}/{rest}"


class _UploadBrokenError(LlmstackError):
    """An upload that has to start over."""

    def __init__(self, error: LlmstackError, retry_after: float | None) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error = error
        self.retry_after = retry_after


class _HashedStream:
    """Iterates over chunks once, hashing them.

    When the chunks fail it ends as if they were all there, so that the registry answers with where the upload stands:
    a session that broke off in the middle cannot be cancelled. `check` then tells, before anything is committed.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._whole = False
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self.digest.update(chunk)
                self.size += len(chunk)
                yield chunk
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
        else:
            self._whole = True

    def close(self) -> None:
        """End what the chunks come from, if it can be ended."""
        if isinstance(self._chunks, Generator):
            self._chunks.close()

    def check(self, what: str) -> None:
        """Raise what the chunks raised; ConnectionLostError when not all of them were asked for."""
        if self.error:
            raise self.error
        if not self._whole:
            raise ConnectionLostError(f"{what}: the registry answered before it had all of it")


class Registries:
    """Opens repositories; each registry is met once, with its logins and tokens."""

    def __init__(self, client: Client, lookup: CredentialLookup, plain_http: Collection[str] = ()) -> None:
        self._client = client
        self._lookup = lookup
        self._plain_http = plain_http
        self._registries: dict[str, Registry] = {}

    def repository(self, reference: Reference, *, write: bool = False) -> Repository:
        """Return the repository that `reference` is in; no request is made yet."""
        host = reference.registry
        if host not in self._registries:
            # Whoever says `--plain-http` means the registry of their own, and not where its base image comes from.
            plain = host in self._plain_http or ("*" in self._plain_http and host != DOCKER_HUB)
            self._registries[host] = Registry(host, self._client, self._lookup, plain_http=plain)
        return Repository(self._registries[host], reference.repository, write=write)
