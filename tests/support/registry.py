"""Real registries (distribution 2.8 as Debian packages it): plain HTTP, htpasswd with TLS, tokens."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import shutil
import ssl
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import trustme

from tests.support.process import Daemon, RigError, free_port, need
from tests.support.token_server import TokenServer

USER = "carrier"
PASSWORD = "c0rrect-h0rse"
LOOPBACK = "127.0.0.1"
STARTS = 5
CA_FILE = "certs/ca.crt"
ACCESS_LINE = re.compile(r'"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/1\.1" (?P<status>\d{3}) (?P<length>\d+)')


@dataclass(frozen=True, slots=True)
class Served:
    """One request in the access log; `target` is the path and the query, `length` the size of the response."""

    method: str
    target: str
    status: int
    length: int


@dataclass
class Registry:
    """A running registry at `host` (`HOST:PORT`)."""

    host: str
    root: Path
    daemon: Daemon
    user: str | None = None
    password: str | None = None
    ca_file: Path | None = None
    tokens: TokenServer | None = None
    _names: Iterator[int] = field(default_factory=itertools.count)
    _seen: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://{self.host}"

    def namespace(self) -> str:
        """Return a namespace `HOST:PORT/tN` that no other test uses."""
        return f"{self.host}/t{next(self._names)}"

    def served(self) -> list[Served]:
        """Return the requests answered since the last call, oldest first."""
        marker = uuid.uuid4().hex
        self._get(f"/v2/?{marker}")
        deadline = time.monotonic() + 10
        while marker not in self.daemon.log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise RigError(f"{self.daemon.log} does not show a request that was sent")
        # The registry writes a line after its response, so the line of an earlier request may follow the marker.
        time.sleep(0.02)
        text = self.daemon.log.read_text(errors="replace")
        new, self._seen = text[self._seen :], len(text)
        lines = (ACCESS_LINE.search(line) for line in new.splitlines())
        all_of_them = [Served(m["method"], m["target"], int(m["status"]), int(m["length"])) for m in lines if m]
        return [request for request in all_of_them if marker not in request.target]

    def blob_file(self, digest: str) -> Path:
        """Return the file of a blob, for tests that damage or count it."""
        algorithm, _, value = digest.partition(":")
        return self.root / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    def docker_config(self, folder: Path) -> Path:
        """Write a config.json as `docker login` does; return its directory, for DOCKER_CONFIG."""
        folder.mkdir(parents=True, exist_ok=True)
        auth = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return folder

    def _get(self, target: str) -> int:
        if self.ca_file:
            context = ssl.create_default_context(cafile=self.ca_file)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(self.host, context=context, timeout=10)
        else:
            connection = http.client.HTTPConnection(self.host, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", target)
            return connection.getresponse().status

    def answers(self) -> bool:
        """Tell whether the registry answers, including with 401."""
        try:
            return self._get("/v2/") in {200, 401}
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def plain_registry(folder: Path) -> Iterator[Registry]:
    """Run a registry with plain HTTP and without authentication."""
    with _run(folder, {}) as registry:
        yield registry


@contextlib.contextmanager
def secure_registry(folder: Path, address: str = LOOPBACK) -> Iterator[Registry]:
    """Run a registry with HTTPS, its own CA and htpasswd; containers need another address than loopback."""
    # `skopeo --cert-dir` needs a directory with the CA as *.crt and without keys.
    (folder / "certs").mkdir(parents=True)
    authority = trustme.CA()
    certificate = authority.issue_cert(address, "localhost")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / CA_FILE)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(rounds=4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    tls = {"certificate": str(folder / "server.pem"), "key": str(folder / "server.key")}
    auth = {"htpasswd": {"realm": "rig", "path": str(folder / "htpasswd")}}
    with _run(folder, {"tls": tls}, auth, address) as registry:
        registry.user, registry.password = USER, PASSWORD
        yield registry


@contextlib.contextmanager
def token_registry(folder: Path) -> Iterator[Registry]:
    """Run a registry with a token server; pull and push require the password."""
    folder.mkdir(parents=True, exist_ok=True)
    with TokenServer(USER, PASSWORD) as tokens:
        tokens.write_roots(folder / "roots.pem")
        auth = {
            "token": {
                "realm": f"{tokens.url}/token",
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(folder / "roots.pem"),
            }
        }
        with _run(folder, {}, auth) as registry:
            registry.user, registry.password, registry.tokens = USER, PASSWORD, tokens
            yield registry


@contextlib.contextmanager
def _run(
    folder: Path, http_settings: Mapping[str, Any], auth: Mapping[str, Any] | None = None, address: str = LOOPBACK
) -> Iterator[Registry]:
    root = folder / "blobs"
    root.mkdir(parents=True, exist_ok=True)
    for start in range(STARTS):
        registry = _start(folder, f"{address}:{free_port()}", http_settings, auth)
        try:
            registry.daemon.wait_until(registry.answers)
            break
        except RigError as error:
            # Another process took the port after free_port().
            if "address already in use" not in str(error) or start == STARTS - 1:
                raise
    try:
        yield registry
    finally:
        registry.daemon.stop()
        shutil.rmtree(root)


def _start(folder: Path, host: str, http_settings: Mapping[str, Any], auth: Mapping[str, Any] | None) -> Registry:
    root = folder / "blobs"
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(root)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": host, "secret": "rig", **http_settings},
        **({"auth": auth} if auth else {}),
    }
    # JSON is YAML, and needs no package to write.
    path = folder / "config.yml"
    path.write_text(json.dumps(config, indent=1))
    daemon = Daemon([need("docker-registry", "docker-registry"), "serve", str(path)], folder / "registry.log")
    ca_file = folder / CA_FILE if "tls" in http_settings else None
    return Registry(host, root, daemon, ca_file=ca_file)
