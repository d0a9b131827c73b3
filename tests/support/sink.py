"""A registry in memory that stores equal blocks once, so that a terabyte of repeated data needs little memory.

It implements the part of the distribution spec that ferry and extract need, verifies digests, and can simulate faults.
`python -m tests.support.sink` runs one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

BLOCK = 1024 * 1024
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<resource>blobs/uploads|blobs|manifests|tags)/(?P<rest>[^/]*)")


class BlockCache:
    """Blocks of bytes, each stored once."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, bytes] = {}

    def intern(self, block: bytes, previous: bytes) -> bytes:
        """Return the stored block that is equal to `block`; comparing with `previous` is cheaper than a lookup."""
        return previous if block == previous else self._blocks.setdefault(block, block)


class Blob:
    """Bytes in blocks; grows by append()."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._blocks: list[bytes] = []
        self._rest = bytearray()
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"

    def append(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self.size += len(data)
        self._rest += data
        while len(self._rest) >= BLOCK:
            last = self._blocks[-1] if self._blocks else b""
            self._blocks.append(self._cache.intern(bytes(self._rest[:BLOCK]), last))
            del self._rest[:BLOCK]

    def read(self, start: int, stop: int) -> Iterator[memoryview]:
        while start < stop:
            number, offset = divmod(start, BLOCK)
            block = self._blocks[number] if number < len(self._blocks) else bytes(self._rest)
            piece = memoryview(block)[offset : offset + stop - start]
            start += len(piece)
            yield piece


@dataclass
class Repository:
    """Manifests by digest, with their media types, tags, and the digests deleted with `keep_tags`."""

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)


class Sink:
    """The registry at `host`.

    `refuse` is a list of patterns for `METHOD path` and statuses, each for one request. `break_after` closes the
    connection of the next upload after so many bytes, `drop_after` that of the next blob that is read. `ignore_range`
    is the number of range requests that are answered with the complete blob. With `keep_tags`, DELETE by digest keeps
    the tags, as in go-containerregistry's registry.
    """

    def __init__(self, port: int = 0) -> None:
        self.blobs: dict[str, Blob] = {}
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, Blob] = {}
        self.refuse: list[tuple[str, int]] = []
        self.break_after: list[int] = []
        self.drop_after: list[int] = []
        self.ignore_range = 0
        self.keep_tags = False
        self.block_cache = BlockCache()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="sink", daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def heal(self) -> None:
        """Simulate no more faults."""
        self.refuse, self.break_after, self.drop_after, self.ignore_range = [], [], [], 0

    def refusal(self, request: str) -> int | None:
        """Return the status that a request is refused with, and remove its entry from `refuse`."""
        with self.lock:
            for position, (pattern, status) in enumerate(self.refuse):
                if re.match(pattern, request):
                    del self.refuse[position]
                    return status
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def close_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that the client closed."""


def _handler(sink: Sink) -> type[BaseHTTPRequestHandler]:
    class Handler(_Requests):
        registry = sink

    return Handler


class _Requests(BaseHTTPRequestHandler):
    """One connection's requests."""

    registry: Sink
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = BLOCK

    def log_message(self, *_: Any) -> None: ...

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        if status := self.registry.refusal(f"{self.command} {url.path}"):
            self._read_body(None)
            challenge = {"WWW-Authenticate": 'Basic realm="sink"'} if status == 401 else {}
            self._answer(
                status,
                challenge,
                json.dumps({"errors": [{"code": "REFUSED", "message": "simulated fault"}]}).encode(),
            )
            return
        match = ROUTE.fullmatch(url.path)
        if match is None:
            self._read_body(None)
            self._answer(200 if url.path == "/v2/" else 404)
            return
        self.repository = self.registry.repositories.setdefault(match["name"], Repository())
        self.base = f"/v2/{match['name']}"
        answer = {"blobs": self._blob, "blobs/uploads": self._upload, "manifests": self._manifest, "tags": self._tags}
        answer[match["resource"]](match["rest"])

    def _blob(self, digest: str) -> None:
        blob = self.registry.blobs.get(digest)
        if blob is None:
            self._answer(404, body=b'{"errors": [{"code": "BLOB_UNKNOWN"}]}')
        elif self.command == "HEAD":
            self._answer(200, length=blob.size)
        else:
            self._send(blob)

    def _send(self, blob: Blob) -> None:
        start, stop, status, headers = 0, blob.size, 200, {}
        requested = RANGE.fullmatch(self.headers.get("Range", ""))
        if requested and self.registry.ignore_range:
            self.registry.ignore_range -= 1
        elif requested:
            start, stop = int(requested[1]), min(blob.size, int(requested[2] or blob.size) + 1)
            status, headers = 206, {"Content-Range": f"bytes {start}-{stop - 1}/{blob.size}"}
        end = min(stop, start + self.registry.drop_after.pop(0)) if self.registry.drop_after else stop
        self._answer(status, headers, length=stop - start)
        for piece in blob.read(start, end):
            self.connection.sendall(piece)
        self.close_connection = self.close_connection or end < stop

    def _upload(self, name: str) -> None:
        registry, uploads = self.registry, self.registry.uploads
        if self.command == "POST":
            self._read_body(None)
            mount = self.query.get("mount", [""])[0]
            if mount in registry.blobs:
                return self._answer(201, {"Location": f"{self.base}/blobs/{mount}"})
            with registry.lock:
                name = f"u{len(uploads)}-{id(self)}"
                uploads[name] = Blob(registry.block_cache)
            return self._answer(202, {"Location": f"{self.base}/blobs/uploads/{name}"})
        blob = uploads.get(name)
        if blob is None:
            self._read_body(None)
            return self._answer(404, body=b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}')
        limit = registry.break_after.pop(0) if self.command == "PATCH" and registry.break_after else None
        if not self._read_body(blob, limit):
            del uploads[name]
            self.close_connection = True
            return None
        if self.command == "PATCH":
            return self._answer(202, {"Location": f"{self.base}/blobs/uploads/{name}"})
        del uploads[name]
        if self.command == "DELETE":
            return self._answer(204)
        if self.query.get("digest") != [blob.digest]:
            return self._answer(400, body=b'{"errors": [{"code": "DIGEST_INVALID"}]}')
        registry.blobs[blob.digest] = blob
        return self._answer(201, {"Location": f"{self.base}/blobs/{blob.digest}"})

    def _manifest(self, reference: str) -> None:
        repository = self.repository
        digest = repository.tags.get(reference, reference)
        if self.command == "PUT":
            body = Blob(BlockCache())
            self._read_body(body)
            data = b"".join(body.read(0, body.size))
            if not self._has_all(data):
                return self._answer(400, body=b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}')
            repository.deleted.discard(body.digest)
            repository.manifests[body.digest] = (self.headers.get("Content-Type", ""), data)
            if not reference.startswith("sha256:"):
                repository.tags[reference] = body.digest
            return self._answer(201, {"Docker-Content-Digest": body.digest})
        if digest not in repository.manifests or reference in repository.deleted:
            return self._answer(404, body=b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        if self.command == "DELETE":
            if reference in repository.tags:
                del repository.tags[reference]
                return self._answer(202)
            if self.registry.keep_tags:
                repository.deleted.add(digest)
                return self._answer(202)
            del repository.manifests[digest]
            repository.tags = {tag: named for tag, named in repository.tags.items() if named != digest}
            return self._answer(202)
        media_type, data = repository.manifests[digest]
        return self._answer(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, data)

    def _has_all(self, manifest: bytes) -> bool:
        """Tell whether all blobs and manifests of a manifest or an index exist."""
        value = json.loads(manifest)
        blobs = [value["config"], *value["layers"]] if "layers" in value else []
        return all(blob["digest"] in self.registry.blobs for blob in blobs) and all(
            inner["digest"] in self.repository.manifests for inner in value.get("manifests", [])
        )

    def _tags(self, _rest: str) -> None:
        self._answer(200, body=json.dumps({"tags": sorted(self.repository.tags)}).encode())

    def _read_body(self, blob: Blob | None, limit: int | None = None) -> bool:
        """Read a request body into a blob; return false if it ended too early or reached `limit`."""
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        left = 0 if chunked else int(self.headers.get("Content-Length", "0"))
        buffer = memoryview(bytearray(BLOCK))
        seen = 0
        while chunked or left:
            if chunked and not left:
                left = int(self.rfile.readline(100).strip() or b"-1", 16)
                if left <= 0:
                    self.rfile.readline(100)
                    return left == 0
            size = self.rfile.readinto1(buffer[:left])
            seen += size
            if not size or (limit is not None and seen > limit):
                return False
            if blob is not None:
                blob.append(buffer[:size])
            left -= size
            if chunked and not left:
                self.rfile.readline(100)
        return True

    def _answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with Sink() as sink:
        print(sink.host, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
