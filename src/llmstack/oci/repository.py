"""One repository of a registry as a BlobStore (distribution-spec v1.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import replace
from threading import Event

from llmstack.errors import (
    IntegrityError,
    LlmstackError,
    NotAuthorizedError,
    NotFoundError,
    UsageError,
)
from llmstack.net import Backoff, Cancelled, Client, ConnectionLostError, Response, read_resuming, read_with_retry
from llmstack.net.cancel import GRACE
from llmstack.net.http_body import discard
from llmstack.net.http_headers import requested_delay
from llmstack.net.page_limits import PageLimits
from llmstack.net.parallel import run_all
from llmstack.net.retry import RETRIED_STATUS
from llmstack.net.urls import redirected
from llmstack.oci.auth import CredentialLookup
from llmstack.oci.reference import DOCKER_HUB, Digest, Reference, is_tag
from llmstack.oci.referrers_tag import add_to_referrers_tag, referrers_tag
from llmstack.oci.registry import Registry
from llmstack.oci.registry_lists import read_list
from llmstack.oci.spec import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    MAX_MANIFEST_SIZE,
    Descriptor,
    Index,
    RawManifest,
    media_type_of,
    parse_object,
    subject_of,
)
from llmstack.oci.store import BlobReader, check_expected
from llmstack.oci.upload_body import HashedStream

_ACCEPT = ", ".join((INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
MAX_TAGS = 500_000
MAX_REFERRERS = 10_000
MAX_TAG_PAGES = 10_000
# Responses to an upload whose session no longer exists: the upload starts over.
_SESSION_LOST = frozenset({401, 404, 416})
# The final PUT of an upload may take this many times as long as other requests.
COMMIT_TIMEOUT_FACTOR = 10


class Repository:
    """Reads and writes one repository; implements BlobStore. `write` requests the permission to push too."""

    def __init__(self, registry: Registry, repository: str, *, write: bool = False) -> None:
        self._registry = registry
        self._repository = repository
        self._scopes = (f"repository:{repository}:{'pull,push' if write else 'pull'}",)

    @property
    def name(self) -> str:
        """The registry and the repository, as in a reference."""
        return f"{self._registry.host}/{self._repository}"

    @property
    def _client(self) -> Client:
        return self._registry.client

    def manifest(self, reference: str) -> RawManifest:
        """Return a manifest or an index; see BlobReader."""
        what = f"{self.name}{'@' if ':' in reference else ':'}{reference}: cannot read the manifest"

        def send(backoff: Backoff) -> Response:
            response = self._get(f"manifests/{reference}", {"Accept": _ACCEPT}, backoff)
            if response.status != 200:
                raise self._registry.error(response, what)
            return response

        response, data = read_with_retry(send, self._client.backoff(), MAX_MANIFEST_SIZE)
        expected = reference if ":" in reference else response.headers.get("Docker-Content-Digest")
        manifest = RawManifest("", data)
        if expected and manifest.digest != expected:
            raise IntegrityError(f"{what}: it does not match its digest {expected[:80]}")
        return replace(manifest, media_type=media_type_of(manifest.json()))

    def read_blob(self, blob: Descriptor, start: int = 0, stop: int | None = None) -> Generator[bytes, None, None]:
        """Yield a blob's bytes; see BlobReader."""
        what = f"{self.name}@{blob.digest}: cannot read the blob"

        def open_range(byte_range: str | None, backoff: Backoff) -> Response:
            response = self._get(f"blobs/{blob.digest}", {"Range": byte_range} if byte_range else {}, backoff)
            if response.status not in {200, 206}:
                raise self._registry.error(response, what)
            return response

        return read_resuming(
            self._client,
            open_range,
            what=what,
            size=blob.size,
            start=start,
            stop=stop,
            home=lambda: self._registry.url,
        )

    def tags(self) -> list[str]:
        """Return all tags; see BlobReader."""
        limits = PageLimits(f"{self.name}: the tag list", MAX_TAGS, MAX_TAG_PAGES)
        what = f"{self.name}: cannot list the tags"
        found = read_list(self._registry, self._path("tags/list?n=1000"), self._scopes, what, limits, _tags)
        return sorted(found or ())

    def referrers(self, digest: Digest) -> list[Descriptor]:
        """Return what refers to a manifest (distribution-spec, "Listing Referrers"); see BlobReader."""
        limits = PageLimits(f"{self.name}@{digest}: the list of referrers", MAX_REFERRERS, MAX_TAG_PAGES)
        what = f"{self.name}@{digest}: cannot list the referrers"
        found = read_list(self._registry, self._path(f"referrers/{digest}"), self._scopes, what, limits, _referrers)
        if found is not None:
            return list(found)
        # The registry has no API for them: clients keep an index under a tag.
        try:
            return list(Index.parse(self.manifest(referrers_tag(digest))).manifests)
        except NotFoundError:
            return []

    def digests(self, tags: Sequence[str] | None = None, jobs: int = 1, /) -> dict[str, Digest]:
        """Return the digests of tags: one HEAD request per tag; see BlobReader."""

        names = self.tags() if tags is None else tags
        found = zip(names, run_all(self._digest_or_none, names, jobs, Event()), strict=True)
        return {tag: digest for tag, digest in found if digest}

    def digest_of(self, tag: str) -> Digest:
        """Return the digest of a tag without reading its manifest; raises what `manifest` raises."""
        response = self._registry.request("HEAD", self._path(f"manifests/{tag}"), self._scopes, {"Accept": _ACCEPT})
        if response.status != 200:
            raise self._registry.error(response, f"{self.name}:{tag}: cannot read the digest")
        discard(response)
        try:
            return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except UsageError:
            return self.manifest(tag).digest

    def has_blob(self, digest: Digest) -> bool:
        """Tell whether the blob exists (HEAD)."""
        return self._has(digest, self._client.backoff())

    def _has(self, digest: Digest, backoff: Backoff) -> bool:
        response = self._registry.request("HEAD", self._path(f"blobs/{digest}"), self._scopes, backoff=backoff)
        if response.status in {200, 404}:
            discard(response)
            return response.status == 200
        raise self._registry.error(response, f"{self.name}@{digest}: cannot check for the blob")

    def mount_blob(self, blob: Descriptor, source: BlobReader) -> bool:
        """Mount a blob from another repository of this registry (distribution-spec, "Mounting a blob").

        Returns false if the registry refuses for any reason: the blob is then uploaded.
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

    def write_blob(
        self, make_chunks: Callable[[], Iterable[bytes]], expected: Descriptor | None = None, /
    ) -> tuple[Digest, int]:
        """Upload a stream by one streamed PATCH, as `docker push` does; see BlobStore.

        Content-Range chunks are not used: several registries refuse or mishandle them. The common registries cannot
        resume a broken PATCH, so a broken upload starts over. All requests of an upload share one Backoff.
        """
        backoff = self._client.backoff()
        while True:
            stream = HashedStream(make_chunks())
            try:
                # The source of the chunks, for example a connection to the Hub, is closed before the delay.
                with contextlib.closing(stream):
                    return self._upload(stream, expected, backoff)
            except (_UploadBrokenError, ConnectionLostError) as broken:
                if stream.error:
                    raise stream.error from None
                if isinstance(broken, _UploadBrokenError):
                    backoff.wait(broken.error, broken.retry_after)
                else:
                    backoff.wait(broken)

    def put_manifest(self, manifest: RawManifest, tag: str | None = None) -> None:
        """Store a manifest or an index; see BlobStore."""
        path = self._path(f"manifests/{tag or manifest.digest}")
        backoff = self._client.backoff()
        while True:
            response = self._registry.request(
                "PUT", path, self._scopes, {"Content-Type": manifest.media_type}, manifest.data, backoff
            )
            what = f"{self.name}{f':{tag}' if tag else f'@{manifest.digest}'}: cannot write the manifest"
            if response.status in {200, 201, 202}:
                discard(response)
                # With a tag in the URL the registry has no digest to check the body against.
                if response.headers.get("Docker-Content-Digest") in {None, manifest.digest}:
                    if "OCI-Subject" not in response.headers and (subject := subject_of(manifest)):
                        add_to_referrers_tag(self, manifest, subject)
                    return
                error: LlmstackError = IntegrityError(f"{what}: the registry received other bytes than were sent")
            else:
                error = self._registry.error(response, what, writing=True)
            if not isinstance(error, IntegrityError):
                raise error
            # If two clients write the same manifest, distribution may read back a half-written file.
            backoff.wait(error)

    def delete_manifest(self, digest: Digest, tag: str, /) -> bool:
        """Delete a manifest; see BlobStore. Many credentials lack the permission for it.

        Some registries keep the tags of a deleted manifest (go-containerregistry), or only delete tags.
        """
        backoff = self._client.backoff()
        self._delete(digest, backoff)
        if self._digest_or_none(tag) == digest:
            self._delete(tag, backoff)
            return self._digest_or_none(tag) != digest
        return True

    def _delete(self, reference: str, backoff: Backoff) -> None:
        """Try to delete a manifest by its digest, or a tag: registries refuse with many statuses, 500 included."""
        scopes = (f"repository:{self._repository}:delete",)
        try:
            discard(self._registry.request("DELETE", self._path(f"manifests/{reference}"), scopes, backoff=backoff))
        except Cancelled:
            raise
        except LlmstackError:
            # The caller looks whether the tag still exists.
            pass

    def _digest_or_none(self, tag: str) -> Digest | None:
        try:
            return self.digest_of(tag)
        except NotFoundError:
            return None

    def _upload(self, stream: HashedStream, expected: Descriptor | None, backoff: Backoff) -> tuple[Digest, int]:
        what = f"{self.name}: cannot upload a layer"
        no_body = {"Content-Length": "0"}
        response = self._registry.request("POST", self._path("blobs/uploads/"), self._scopes, no_body, backoff=backoff)
        if response.status != 202:
            raise self._registry.error(response, what, writing=True)
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
            check_expected(digest, stream.size, expected)
            self._commit(location, digest, what, backoff)
        except BaseException:
            self._cancel(location)
            raise
        return digest, stream.size

    def _commit(self, location: str, digest: Digest, what: str, backoff: Backoff) -> None:
        url = f"{location}{'&' if '?' in location else '?'}digest={digest.replace(':', '%3A')}"
        # A registry on object storage copies the layer before it answers.
        timeout = self._client.timeout * COMMIT_TIMEOUT_FACTOR
        response = self._registry.request(
            "PUT", url, self._scopes, {"Content-Length": "0"}, backoff=backoff, timeout=timeout
        )
        if response.status in {200, 201, 202, 204}:
            discard(response)
            return
        error = self._upload_error(response, what)
        # If only the response to the first PUT was lost, the session of the repeated PUT no longer exists.
        if not (isinstance(error, _UploadBrokenError) and self._has(digest, backoff)):
            raise error

    def _upload_error(self, response: Response, what: str) -> LlmstackError:
        error = self._registry.error(response, what, writing=True)
        if response.status in RETRIED_STATUS | _SESSION_LOST:
            return _UploadBrokenError(error, requested_delay(response.headers))
        return error

    def _cancel(self, location: str) -> None:
        """Delete an upload session, with a short timeout; a registry removes abandoned sessions later."""
        if self._client.cancel.expired:
            # The registry did not answer for as long as an interrupted run may wait.
            return
        timeout = min(GRACE, self._client.timeout) / 2
        # distribution requires the permission to delete for it; other registries may not know this permission.
        with contextlib.suppress(LlmstackError):
            for scopes in (self._scopes, (f"repository:{self._repository}:pull,push,delete",)):
                try:
                    response = self._registry.cancel_upload(location, scopes, timeout)
                except ConnectionLostError:
                    # A registry may close the connection after it answered a PATCH before its end.
                    response = self._registry.cancel_upload(location, scopes, timeout)
                discard(response)
                if response.status not in {401, 403}:
                    return

    def _location(self, response: Response) -> str:
        """Return the URL for the next request of an upload; raises UnavailableError for plain HTTP after HTTPS."""
        base, location = response.geturl() or self._registry.url, response.headers.get("Location")
        return redirected(base, location, {})[0] if location else base

    def _get(self, path: str, headers: dict[str, str], backoff: Backoff | None = None) -> Response:
        return self._registry.request("GET", self._path(path), self._scopes, headers, backoff=backoff)

    def _path(self, rest: str) -> str:
        return f"/v2/{self._repository}/{rest}"


def _tags(data: bytes, what: str) -> list[str]:
    """Return the tags of a tag list; no client can pull what is not a tag, so such strings are left out."""
    tags = parse_object(data, what).get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise IntegrityError(f"{what}: must be a list of strings")
    return list(filter(is_tag, tags))


def _referrers(data: bytes, _what: str) -> tuple[Descriptor, ...]:
    return Index.parse(RawManifest(INDEX, data)).manifests


class _UploadBrokenError(LlmstackError):
    """The upload has to start over."""

    def __init__(self, error: LlmstackError, retry_after: float | None) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error = error
        self.retry_after = retry_after


class Registries:
    """Opens repositories; the repositories of one registry share its credentials and tokens."""

    def __init__(self, client: Client, lookup: CredentialLookup, plain_http: Collection[str] = ()) -> None:
        self._client = client
        self._lookup = lookup
        self._plain_http = plain_http
        self._registries: dict[str, Registry] = {}

    def repository(self, reference: Reference, *, write: bool = False) -> Repository:
        """Return the repository of `reference`, without a request."""
        return Repository(self.registry(reference.registry), reference.repository, write=write)

    def registry(self, host: str) -> Registry:
        """Return the registry `host[:port]`, without a request."""
        if host not in self._registries:
            # `--plain-http` is for the user's own registry, not for the registry of the base image.
            plain = host in self._plain_http or ("*" in self._plain_http and host != DOCKER_HUB)
            self._registries[host] = Registry(host, self._client, self._lookup, plain_http=plain)
        return self._registries[host]
