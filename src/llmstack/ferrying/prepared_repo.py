"""The Docker road: a repo's files as a script has prepared them, read out of the image that holds them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path

from llmstack.carried_image.file_index import ROOT
from llmstack.engine.container_script import remove_image
from llmstack.engine.docker_engine import Engine
from llmstack.engine.engine_image import EngineImage
from llmstack.errors import IntegrityError, UsageError
from llmstack.hf.hub_client import Hub
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.prepared_image import PrepareRequest, build_prepared
from llmstack.oci.tar_reader import TarEntry, TarReader
from llmstack.reporting import Reporter


class PreparedRepo:
    """A repo prepared by a script; implements FileSource. As a context it removes its container and its image.

    The script runs when the files are listed for the first time, so a repo that is up to date costs one request.
    """

    def __init__(self, hub: Hub, script: Path, environment: BuildEnvironment, reporter: Reporter) -> None:
        self._hub = hub
        self._script = script
        self._environment = environment
        self._reporter = reporter
        self._cleanup = contextlib.ExitStack()
        self._image: EngineImage | None = None

    def __enter__(self) -> PreparedRepo:
        """Return the repo itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was made in the engine."""
        self._cleanup.close()

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Resolve a revision to its commit, as the hub has it."""
        return self._hub.info(repo_id, repo_type, revision)

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """Run the script and list what it left, hashing every byte; the hash is the sha256, as for LFS files."""
        image = self._prepare(info)
        with image.open_tar(f"/{ROOT}") as tar:
            files = tuple(sorted(_files(tar), key=lambda file: file.path.encode(errors="surrogateescape")))
        return Snapshot(info, self._hub.commit_date(info), files)

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`; the engine knows no ranges, what comes before is skipped."""
        with self._prepare(info).open_tar(f"/{ROOT}/{file.path}") as tar:
            for entry in tar:
                if entry.kind != "file" or entry.size != file.size:
                    raise IntegrityError(f"{file.path} is not in the image as it was listed", side="source")
                position = 0
                for piece in tar.content():
                    chunk = bytes(piece[max(start - position, 0) : stop - position])
                    position += len(piece)
                    if chunk:
                        yield chunk
                    if position >= stop:
                        return

    def _prepare(self, info: RepoInfo) -> EngineImage:
        if self._image is None:
            request = PrepareRequest(
                repo_id=info.repo_id,
                repo_type=info.repo_type,
                revision=info.commit,
                script=self._script,
                endpoint=self._hub.endpoint,
                token=self._hub.token,
            )
            engine = self._cleanup.enter_context(Engine())
            image = build_prepared(request, self._environment, self._reporter, engine)
            self._cleanup.callback(remove_image, engine, image)
            container = self._cleanup.enter_context(engine.container(image))
            self._image = EngineImage(engine, image, container)
        return self._image


def script_digest(script: Path) -> str:
    """Return the sha256 of a script: another script makes another image of the same commit. Raises UsageError."""
    try:
        return hashlib.sha256(script.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--prepare {script}: it cannot be read: {error.strerror}") from error


def _files(tar: TarReader) -> Iterator[HubFile]:
    known: dict[str, HubFile] = {}
    for entry in tar:
        path = entry.name.rstrip("/").removeprefix(ROOT).lstrip("/")
        if entry.kind == "directory":
            continue
        known[path] = _listed(tar, entry, path, known)
        yield known[path]


def _listed(tar: TarReader, entry: TarEntry, path: str, known: dict[str, HubFile]) -> HubFile:
    if entry.kind == "file":
        digest = hashlib.sha256()
        for piece in tar.content():
            digest.update(piece)
        return HubFile(path, entry.size, digest.hexdigest())
    twin = known.get(entry.target.removeprefix(ROOT).lstrip("/")) if entry.kind == "hardlink" else None
    if twin is None:
        raise UsageError(
            f"the script left {path!r}, which is neither a file nor a folder",
            hint="have it copy what a link points to (cp -L), and leave nothing else in /x",
        )
    return HubFile(path, twin.size, twin.oid)
