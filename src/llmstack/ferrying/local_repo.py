"""Carry local files as a repo: the source of `ferry --as`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from llmstack.carried_image.selection import Selection, select
from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UsageError
from llmstack.ferrying.local_files import (
    FoundFiles,
    LocalFile,
    LocalTree,
    changed,
    is_cache_entry,
    local_file,
    unreadable,
)
from llmstack.hf.front_matter import MAX_CARD, README, license_of, parse_card
from llmstack.hf.snapshot import LFS_POINTER, HubFile, RepoInfo, RepoType, Snapshot
from llmstack.net.cancel import Cancel
from llmstack.net.parallel import run_all
from llmstack.reporting import Reporter

# The same files give the same image, so no date of the disk is part of it.
NO_DATE = "1970-01-01T00:00:00Z"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Small files are hashed together, so that threads do not compete for system calls.
_SMALL = 4 * 1024 * 1024
# The limit of git-lfs itself.
_LARGEST_POINTER = 1024
_SHOWN, _SHOWN_WEIGHTS = 3, 20
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")


class LocalRepo:
    """A directory, an entry of a Hugging Face cache, or one file, as a repo; implements FileSource.

    The commit is a digest of the selected files. They are read twice: first for their hashes, then for the upload.
    """

    def __init__(self, path: Path, selection: Selection, jobs: int, cancel: Cancel, reporter: Reporter) -> None:
        self._path = path
        self._selection = selection
        self._jobs = jobs
        self._cancel = cancel
        self._reporter = reporter
        self._local: dict[str, LocalFile] = {}
        self._files: tuple[HubFile, ...] = ()

    def info(self, repo_id: str, repo_type: RepoType, revision: str) -> RepoInfo:
        """Find and hash the files; raises UsageError for what cannot be carried, and the errors of reading files."""
        found = self._find(repo_type, revision)
        self._local = {file.path: file for file in found}
        sha256 = self._hash(repo_id, found)
        self._files = tuple(HubFile(file.path, file.size, sha256[file.path]) for file in found)
        commit = commit_of(self._files)
        if _COMMIT.fullmatch(revision) and revision != commit:
            raise UsageError(
                f"{revision} is not the commit of these files, which is {commit}",
                hint="leave the revision out, or name it like a branch or a tag",
                side="source",
            )
        return RepoInfo(
            repo_id=repo_id,
            repo_type=repo_type,
            revision=revision,
            commit=commit,
            last_modified=NO_DATE,
            license=self._license(),
            gated=False,
            local=True,
        )

    def snapshot(self, info: RepoInfo) -> Snapshot:
        """Return the files that `info` has found."""
        return Snapshot(info, NO_DATE, self._files)

    def read(self, info: RepoInfo, file: HubFile, start: int, stop: int) -> Generator[bytes, None, None]:  # noqa: ARG002 - there is one repo
        """Yield a file's bytes from `start` up to `stop`; raises IntegrityError if the file has changed."""
        return self._local[file.path].chunks(start, stop, self._cancel)

    def mismatch(self, file: HubFile) -> LlmstackError:
        """Return the error for a file whose bytes are not those that were hashed, or not those of a blob's name."""
        local = self._local[file.path]
        if local.known_sha256 is None:
            return changed(file.path)
        return IntegrityError(
            f"{file.path}: the file in the cache is damaged: its hash is not {local.known_sha256}",
            hint=f"delete {local.location} and download the file again",
            side="source",
        )

    def _find(self, repo_type: RepoType, revision: str) -> list[LocalFile]:
        place = locate(self._path, repo_type, revision)
        found = FoundFiles([place]) if isinstance(place, LocalFile) else place.find()
        if names := _some(found.skipped):
            self._reporter.note(f"{self._path}: left out by .gitignore, or as caches: {names}")
        weights = [path for path in found.skipped if path.lower().endswith(_WEIGHTS)]
        if names := _some(list(select(weights, self._selection, str)), _SHOWN_WEIGHTS):
            self._reporter.warn(f"{self._path}: weights are left out by .gitignore: {names}")
        selected = select(found.files, self._selection, lambda file: file.path)
        for path in select(sorted(found.problems), self._selection, str):
            raise found.problems[path]
        if not selected:
            ignored = ", and its .gitignore" if found.skipped else ""
            if found.files or found.problems:
                raise UsageError(f"{self._path}: no file is selected", hint=f"check --include and --exclude{ignored}")
            raise NotFoundError(f"{self._path}: no files to carry", hint=f"check the path{ignored}")
        return selected

    def _hash(self, repo_id: str, files: Sequence[LocalFile]) -> dict[str, str]:
        """Return the sha256 of each file, by path; a hash in the name of a cache's blob is verified by the upload."""
        known = {file.path: file.known_sha256 for file in files if file.known_sha256}
        unknown = [file for file in files if file.path not in known]
        if not unknown:
            return known
        groups = [[file] for file in unknown if file.size > _SMALL]
        groups.append([file for file in unknown if file.size <= _SMALL])
        self._reporter.begin(f"{repo_id}: hashing", sum(file.size for file in unknown))
        try:
            hashed = run_all(self._hash_group, [group for group in groups if group], self._jobs, self._cancel)
        finally:
            self._reporter.end()
        return known | {path: sha256 for group in hashed for path, sha256 in group.items()}

    def _hash_group(self, files: Sequence[LocalFile]) -> dict[str, str]:
        name = files[0].path if len(files) == 1 else f"{len(files)} small files"
        task = self._reporter.task(name, sum(file.size for file in files))
        hashed = {}
        try:
            for file in files:
                digest = hashlib.sha256()
                for chunk in file.chunks(0, file.size, self._cancel):
                    if file.size <= _LARGEST_POINTER and chunk.startswith(LFS_POINTER):
                        raise UsageError(
                            f"{file.path}: a pointer of Git LFS, not the file itself",
                            hint="download the files with: git lfs pull",
                            side="source",
                        )
                    digest.update(chunk)
                    task.advance(len(chunk))
                hashed[file.path] = digest.hexdigest()
        finally:
            task.done()
        return hashed

    def _license(self) -> str | None:
        readme = self._local.get(README)
        if readme is None:
            return None
        start = b"".join(readme.chunks(0, min(readme.size, MAX_CARD + len("---\n") * 2), self._cancel))
        card = parse_card(start.decode(errors="replace"))
        return license_of(card.get("license"), card.get("license_name"))


def commit_of(files: Iterable[HubFile]) -> str:
    """Return the commit of local files: 40 digits, as clients of the Hub expect, of a sha256 over paths and hashes.

    It is that of the output of `sha256sum --zero` for the files in the order of their paths.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.oid}  {file.path}\0".encode())
    return digest.hexdigest()[:40]


def locate(path: Path, repo_type: RepoType, revision: str) -> LocalTree | LocalFile:
    """Find out what a path is; in an entry of a cache, choose the snapshot of `revision`, or the only one.

    Raises NotFoundError if there is nothing, UsageError for a cache with several repos or for the other repo type.
    """
    try:
        return _locate(path, path.expanduser().resolve(strict=True), repo_type, revision)
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError) as error:
        raise NotFoundError(f"{path}: not found", hint="name an existing directory or file", side="source") from error
    except OSError as error:
        raise unreadable(str(path), error) from error


def _locate(path: Path, real: Path, repo_type: RepoType, revision: str) -> LocalTree | LocalFile:
    if not real.is_dir():
        if not real.is_file():
            raise UsageError(f"{path}: neither a file nor a directory", side="source")
        return local_file(path.name, str(real))
    if is_cache_entry(real):
        real = _snapshot_of(real, revision)
    entry = real.parent.parent
    if real.parent.name == "snapshots" and is_cache_entry(entry):
        kind: RepoType = "dataset" if entry.name.startswith("datasets--") else "model"
        if kind != repo_type:
            raise UsageError(f"{path}: this is the cache of a {kind}", hint=f"add --type {kind}", side="source")
        return LocalTree(real, boundary=entry, is_snapshot=True)
    if any(map(is_cache_entry, real.glob("*--*"))):
        hint = f"name one of them, for example {path}/models--OWNER--NAME"
        raise UsageError(f"{path}: this is a Hugging Face cache with many repos", hint=hint, side="source")
    return LocalTree(real, boundary=real)


def _snapshot_of(entry: Path, revision: str) -> Path:
    snapshots = sorted(path for path in (entry / "snapshots").iterdir() if path.is_dir())
    ref = entry / "refs" / revision
    named = ref.read_text(errors="replace").strip() if ref.is_file() else revision
    chosen = [path for path in snapshots if path.name == named] or snapshots
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise NotFoundError(f"{entry}: the cache has no snapshot", hint="download the repo first", side="source")
    raise UsageError(
        f"{entry}: the cache has {len(chosen)} snapshots, and none is {revision}",
        hint=f"name the directory of one, for example {chosen[0]}",
        side="source",
    )


def _some(paths: Sequence[str], shown: int = _SHOWN) -> str:
    more = f" and {len(paths) - shown} more" if len(paths) > shown else ""
    return ", ".join(paths[:shown]) + more
