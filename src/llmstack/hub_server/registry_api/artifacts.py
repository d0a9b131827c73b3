"""From a repo to its artifacts and their blobs: what a tag or a digest names."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from llmstack.carried_image import gguf_files
from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.gguf_files import GgufModel
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.hf.hub_urls import repo_path
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.error_answers import AnswerError, MovedError
from llmstack.hub_server.facts_index import FactsIndex
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.registry_api.artifact import Artifact
from llmstack.hub_server.registry_api.artifact_making import Kind, check_custom, kinds_of, make, obstacle
from llmstack.hub_server.registry_api.model_facts import FactsReader
from llmstack.hub_server.registry_api.registry_errors import no_ollama, unknown_manifest, unknown_tag, unsupported
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Files, Found, Repo, Revision
from llmstack.oci.reference import Digest, is_tag

LATEST = "latest"
# Manifests and configs, in bytes; files by hash, as paths; and GGUF models with the digests of their artifacts.
_MAX_ARTIFACTS = 32 * 1024 * 1024
_MAX_HASHED = 400_000
_MAX_MODELS = 20_000
# Digests of former revisions are known as long as a running pull may need them.
_FORMER = 8
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(slots=True)
class _Known:
    """The GGUF models of a revision, and the digests of its artifacts and their generated blobs.

    `is_complete` means that all artifacts have been made once, here or by another request.
    """

    models: list[GgufModel[IndexedFile]]
    digests: dict[Digest, Kind] = field(default_factory=dict)
    is_complete: bool = False


class Artifacts:
    """Makes the artifacts of an index on request and keeps the recently used ones; thread-safe."""

    def __init__(self, repo_index: RepoIndex, facts_index: FactsIndex) -> None:
        self._index = repo_index
        self._reader = FactsReader(repo_index, facts_index)
        self._made = Cache[tuple[Digest, Kind], Artifact](
            _MAX_ARTIFACTS // repo_index.share, lambda artifact: artifact.size
        )
        self._hashed = Cache[Digest, list[str]](_MAX_HASHED, len)
        self._known = Cache[Digest, _Known](_MAX_MODELS, lambda known: 1 + len(known.models))

    def find(self, repo_type: RepoType, repo_id: str) -> Repo:
        """Return a repo by its ID in any case, since clients of registries send lower case only; raises AnswerError."""
        try:
            return self._index.find(repo_type, self._index.spelled(repo_type, repo_id))
        except MovedError as moved:
            return self._index.find(repo_type, moved.repo_id)

    def names(self) -> list[str]:
        """Return the names of all repos in lower case, sorted; without those that `find` would not find by it."""
        repos = {(repo.repo_type, repo.repo_id) for repo in self._index.repos()}
        names = {
            repo_path(repo_id.lower(), repo_type)
            for repo_type, repo_id in repos
            if (repo_type, self._index.spelled(repo_type, repo_id.lower())) in repos
        }
        return sorted(names)

    def tags(self, repo: Repo) -> list[str]:
        """Return the tags of a repo: its revisions, `latest` (main), and the GGUF models of main; sorted."""
        tags = {_tag_of(revision.name) for revision in repo.revisions if not obstacle(revision)}
        if (main := repo.revision(DEFAULT_REVISION)) and not obstacle(main):
            models = self._models(main)
            kinds = set(kinds_of(self._index.files(main), models))
            tags |= {LATEST, *gguf_files.labels(model for model in models if Kind(model.files[0].path) in kinds)}
        return sorted(filter(is_tag, tags))

    def by_tag(self, repo: Repo, tag: str) -> Artifact:
        """Return the ModelPack artifact of a tag: of a revision, or of a quantization of main.

        Raises AnswerError, and what reading raises.
        """
        if revision := self._named(repo, tag):
            return self._get(revision, Kind())
        main = repo.revision(DEFAULT_REVISION)
        if main and (model := gguf_files.find_model(self._models(main), tag)):
            return self._get(main, Kind(model.files[0].path))
        try:
            # It may have been carried since the last refresh.
            return self._get(self._index.revision(repo.repo_type, repo.repo_id, tag), Kind())
        except AnswerError as error:
            if error.code == "RevisionNotFound":
                raise unknown_tag(repo, tag, self.tags(repo)) from error
            raise

    def ollama(self, repo: Repo, tag: str, *, is_llama_cpp: bool) -> Artifact:
        """Return the artifact for ollama of a quantization or a file of main; `latest` is the preferred one.

        llama.cpp can load a model in shards. Raises AnswerError, and what reading raises.
        """
        main = repo.revision(DEFAULT_REVISION)
        if main is None:
            raise no_ollama(f"{repo.repo_id}: revision {DEFAULT_REVISION} not found")
        models = self._models(main)
        if not models:
            raise no_ollama(f"{repo.repo_id}: it has no GGUF files, and ollama can pull no others")
        loadable = [model for model in models if is_llama_cpp or not model.is_sharded]
        model = gguf_files.find_model(loadable, tag) or gguf_files.find_model(models, tag)
        if model is None:
            available = ", ".join([LATEST, *gguf_files.labels(models)])
            raise no_ollama(f"{repo.repo_id}: tag {tag} not found; available: {available}")
        if model not in loadable:
            raise no_ollama(
                f"{repo.repo_id}: {model.name} is one of several files of a model, which ollama cannot pull: "
                "join them with llama-gguf-split --merge, or use llama.cpp"
            )
        if not is_llama_cpp:
            check_custom(self._reader, main)
        return self._get(main, Kind(model.files[0].path, is_ollama=True))

    def by_digest(self, repo: Repo, digest: Digest) -> Artifact:
        """Return the artifact with a digest; raises AnswerError, and what reading raises."""
        artifact = self._with(repo, digest)
        if artifact is None or artifact.digest != digest:
            raise unknown_manifest(repo, digest)
        return artifact

    def file(self, repo: Repo, digest: Digest) -> Found | None:
        """Return a file with a digest in any revision of a repo; raises what reading its index raises."""
        for revision in self._servable(repo):
            files = self._index.files(revision)
            hashed = self._hashed.get(revision.digest, partial(_by_hash, files))
            number = bisect_left(hashed, digest.hex, key=partial(_hash_of, files))
            if number < len(hashed) and _hash_of(files, hashed[number]) == digest.hex:
                return Found(revision, files, files.files[hashed[number]])
        return None

    def generated(self, repo: Repo, digest: Digest) -> bytes | None:
        """Return a blob that was generated for an artifact of a repo, a config for example."""
        artifact = self._with(repo, digest)
        return artifact.blobs.get(digest) if artifact else None

    def _named(self, repo: Repo, tag: str) -> Revision | None:
        """Return the revision with this tag, name or commit; also a former commit of a tag.

        `latest` is main, unless a revision has this name.
        """
        if tag == LATEST:
            return repo.revision(LATEST) or repo.revision(DEFAULT_REVISION)
        revisions = self._index.revisions(repo)
        matches = (item for item in revisions if tag in {_tag_of(item.name), item.commit})
        return repo.revision(tag) or next(matches, None)

    def _servable(self, repo: Repo) -> Iterator[Revision]:
        revisions = self._index.revisions(repo)[: len(repo.revisions) + _FORMER]
        return (revision for revision in revisions if not obstacle(revision))

    def _with(self, repo: Repo, digest: Digest) -> Artifact | None:
        """Return the artifact of a repo with a digest or with a generated blob of this digest."""
        for revision in self._servable(repo):
            if kind := self._of(revision).digests.get(digest):
                return self._get(revision, kind)
        # Another process may have made it, before a restart for example.
        for revision in self._servable(repo):
            known = self._of(revision)
            for kind in [] if known.is_complete else kinds_of(self._index.files(revision), known.models):
                # What one artifact lacks must not hide the others.
                with suppress(AnswerError):
                    self._get(revision, kind)
                if found := known.digests.get(digest):
                    return self._get(revision, found)
            known.is_complete = True
        return None

    def _get(self, revision: Revision, kind: Kind) -> Artifact:
        known = self._of(revision)
        artifact = self._made.get((revision.digest, kind), lambda: make(self._reader, revision, known.models, kind))
        known.digests |= dict.fromkeys([artifact.digest, *artifact.blobs], kind)
        return artifact

    def _models(self, revision: Revision) -> list[GgufModel[IndexedFile]]:
        return self._of(revision).models

    def _of(self, revision: Revision) -> _Known:
        """Return what is known of a revision; raises AnswerError if its files cannot be blobs."""
        if reason := obstacle(revision):
            raise unsupported(revision, reason)
        return self._known.get(
            revision.digest, lambda: _Known(gguf_files.gguf_models(self._index.files(revision).in_order()))
        )


def _by_hash(files: Files) -> list[str]:
    """Return the paths of files, sorted by hash."""
    return sorted(files.paths, key=partial(_hash_of, files))


def _hash_of(files: Files, path: str) -> str:
    return files.files[path].sha256


def _tag_of(name: str) -> str:
    """Return a name with `_` for the characters that no tag can contain."""
    return _NOT_IN_TAG.sub("_", name)
