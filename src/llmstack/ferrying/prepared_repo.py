"""Read the files that a script has prepared from a repo, out of the image that Docker Engine built with it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from pathlib import Path

from llmstack.carried_image.file_index import ROOT
from llmstack.engine.container_script import remove_image
from llmstack.engine.docker_engine import Engine
from llmstack.engine.engine_image import EngineImage
from llmstack.errors import IntegrityError, LlmstackError, UsageError
from llmstack.hf.hub_client import HubClient
from llmstack.hf.snapshot import HubFile, RepoInfo, RepoType, Snapshot
from llmstack.image_builds.build_environment import BuildEnvironment
from llmstack.image_builds.prepared_image import PrepareRequest, build_prepared
from llmstack.oci.tar_reader import TarEntry, TarReader
from llmstack.reporting import Reporter


class PreparedRepo:
    """A repo prepared by a script; implements FileSource. On exit it removes its container and image.

    The script runs when the files are first listed: an up-to-date repo needs no container.
    """

    def __init__(self, hub: HubClient, script: Path, environment: BuildEnvironment, reporter: Reporter) -> None:
        self._hub = hub
        self._script = script
        self._environment = environment
        self._reporter = reporter
        self._cleanup = contextlib.ExitStack()
        self._image: EngineImage | None = None

    def __enter__(self) -> PreparedRepo:
        """Return self."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove container and image from the engine."""
        self._cleanup.close()

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Resolve a revision to its commit on the Hub."""
        return self._hub.info(repo_id, repo_type, revision)

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """Run the script and list its output; the oid of each file is its sha256, as for LFS files."""
        image = self._prepare(info)
        with image.open_tar(f"/{ROOT}") as tar:
            files = tuple(sorted(_files(tar), key=lambda file: file.path.encode(errors="surrogateescape")))
        return Snapshot(info, self._hub.commit_date(info), files)

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from `start` up to `stop`; without ranges in the engine, earlier bytes are skipped."""
        with self._prepare(info).open_tar(f"/{ROOT}/{file.path}") as tar:
            for entry in tar:
                if entry.kind != "file" or entry.size != file.size:
                    raise self.mismatch(file)
                position = 0
                for piece in tar.content():
                    chunk = bytes(piece[max(start - position, 0) : stop - position])
                    position += len(piece)
                    if chunk:
                        yield chunk
                    if position >= stop:
                        return

    def mismatch(self, file: HubFile) -> LlmstackError:
        """Return the error for a file that is no longer the one that was listed."""
        return IntegrityError(f"{file.path}: the image no longer holds the file as listed", side="source")

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
    """Return the sha256 of a script, which is part of the selection of an image.

    Raises UsageError for a script that cannot be read, or that no shell can run.
    """
    try:
        content = script.read_bytes()
    except OSError as error:
        raise UsageError(f"--prepare {script}: cannot be read: {error.strerror}") from error
    if not content.strip():
        raise UsageError(f"--prepare {script}: the script is empty", hint="get_hf/prepare.example.sh is an example")
    if content.split(b"\n", 1)[0].endswith(b"\r"):
        raise UsageError(
            f"--prepare {script}: has Windows line endings, which a shell cannot run",
            hint=f"convert it: sed -i 's/\\r$//' {script}",
        )
    return hashlib.sha256(content).hexdigest()


def _files(tar: TarReader) -> Iterator[HubFile]:
    known: dict[str, HubFile] = {}
    for entry in tar:
        path = entry.name.rstrip("/").removeprefix(ROOT).lstrip("/")
        if entry.kind == "directory":
            continue
        known[path] = _hub_file(tar, entry, path, known)
        yield known[path]


def _hub_file(tar: TarReader, entry: TarEntry, path: str, known: dict[str, HubFile]) -> HubFile:
    if entry.kind == "file":
        digest = hashlib.sha256()
        for piece in tar.content():
            digest.update(piece)
        return HubFile(path, entry.size, digest.hexdigest())
    hardlinked = known.get(entry.target.removeprefix(ROOT).lstrip("/")) if entry.kind == "hardlink" else None
    if hardlinked is None:
        raise UsageError(
            f"the script wrote {path!r}, which is neither a file nor a directory",
            hint="copy the target of a symlink instead (cp -L), and write nothing else below /x",
        )
    return HubFile(path, hardlinked.size, hardlinked.oid)
