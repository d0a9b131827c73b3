"""The requests of `ollama pull`, as ollama's server/images.go and server/download.go make them."""

from __future__ import annotations

import hashlib
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

ACCEPT = "application/vnd.docker.distribution.manifest.v2+json"
AGENT = "ollama/0.30.0 (amd64 linux) Go/go1.26.5"
# ollama's parts have at least 100 MB; these are smaller, so that small files have several.
PARTS, SMALLEST = 16, 1000


class PullError(Exception):
    """The pull failed; the message is what ollama prints."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is in ollama's directories after a pull: the manifest, and the blobs by digest."""

    manifest: bytes
    blobs: dict[str, bytes] = field(default_factory=dict)

    def layer(self, kind: str) -> bytes | None:
        """Return the layer of a kind, `model` for example."""
        for layer in json.loads(self.manifest)["layers"]:
            if layer["mediaType"] == f"application/vnd.ollama.image.{kind}":
                return self.blobs[layer["digest"]]
        return None

    @property
    def config(self) -> dict[str, object]:
        """The config."""
        value: dict[str, object] = json.loads(self.blobs[json.loads(self.manifest)["config"]["digest"]])
        return value


def pull(url: str, name: str, tag: str = "latest") -> Pulled:
    """Pull `HOST/name:tag` from a hub; raises PullError."""
    _, _, manifest = _request("GET", f"{url}/v2/{name}/manifests/{tag}", {"Accept": ACCEPT})
    value = json.loads(manifest)
    pulled = Pulled(manifest)
    for layer in [*value["layers"], value["config"]]:
        blob = _download(f"{url}/v2/{name}/blobs/{layer['digest']}")
        if f"sha256:{hashlib.sha256(blob).hexdigest()}" != layer["digest"]:
            raise PullError("digest mismatch, file must be downloaded again")
        pulled.blobs[layer["digest"]] = blob
    return pulled


def _download(url: str) -> bytes:
    """Ask for the size and the address of a blob, then for all parts from that address at the same time."""
    _, headers, _ = _request("HEAD", url, {})
    total = int(headers["content-length"])
    status, headers, _ = _request("GET", url, {}, read=False)
    if status not in {200, 307}:
        raise PullError(f"unexpected status code {status}")
    if not headers.get("location"):
        raise PullError("http: no Location header in response")
    direct = urljoin(url, headers["location"])
    size = max(total // PARTS, SMALLEST)
    starts = range(0, total, size)

    def part(start: int) -> bytes:
        # These requests have neither credentials nor a name.
        asked = {"Range": f"bytes={start}-{min(start + size, total) - 1}", "User-Agent": "Go-http-client/1.1"}
        return _request("GET", direct, asked)[2]

    with ThreadPoolExecutor(PARTS) as pool:
        return b"".join(pool.map(part, starts))


def _request(method: str, url: str, headers: dict[str, str], *, read: bool = True) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request(method, parts.path, headers={"User-Agent": AGENT, "Accept-Encoding": "gzip", **headers})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        if response.status == 404:
            raise PullError("file does not exist")
        if response.status >= 400:
            raise PullError(f"{response.status}: {response.read().decode()}")
        return response.status, named, response.read() if read else b""
    finally:
        connection.close()
