"""From a repo to its artifacts and their blobs: what a tag or a digest names."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from llmstack.carried_image.file_index import IndexedFile
from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.errors import IntegrityError
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.error_answers import AnswerError, MovedError
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.registry_api import gguf_files
from llmstack.hub_server.registry_api.artifact import Artifact
from llmstack.hub_server.registry_api.gguf_files import GgufModel
from llmstack.hub_server.registry_api.model_facts import read_facts
from llmstack.hub_server.registry_api.model_pack import model_pack
from llmstack.hub_server.registry_api.ollama import Customization, ollama_artifact
from llmstack.hub_server.registry_api.registry_errors import (
    no_ollama,
    unknown_manifest,
    unknown_tag,
    unsupported,
)
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Files, Found, Repo, Revision
from llmstack.oci.reference import Digest
from llmstack.oci.spec import MAX_MANIFEST_SIZE, parse_object

LATEST = "latest"
# Manifests and configs, in bytes; and files by hash, as paths in memory.
_MAX_ARTIFACTS = 32 * 1024 * 1024
_MAX_HASHED = 400_000
# ollama keeps these in memory.
_MAX_CUSTOM = 1024 * 1024
_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9._-]")
_LICENSES = ("LICENSE", "LICENSE.txt", "LICENSE.md")


class Artifacts:
    """Makes the artifacts of an index on request and keeps the recently used ones; thread-safe."""

    def __init__(self, repo_index: RepoIndex) -> None:
        self._index = repo_index
        self._made = Cache[tuple[Digest, str, str], Artifact](_MAX_ARTIFACTS, lambda artifact: artifact.size)
        self._hashed = Cache[Digest, list[str]](_MAX_HASHED, len)

    def find(self, repo_type: RepoType, repo_id: str) -> Repo:
        """Return a repo by its ID in any case, since clients of registries send lower case only; raises AnswerError."""
        try:
            return self._index.find(repo_type, self._index.spelled(repo_type, repo_id))
        except MovedError as moved:
            return self._index.find(repo_type, moved.repo_id)

    def tags(self, repo: Repo) -> list[str]:
        """Return the tags of a repo: its revisions, `latest` for main, and the quantizations of main; sorted."""
        tags = {_tag_of(revision.name) for revision in repo.revisions if not _obstacle(revision)}
        if (main := repo.revision(DEFAULT_REVISION)) and not _obstacle(main):
            tags |= {LATEST, *map(_tag_of, gguf_files.labels(self._models(main)))}
        return sorted(tags)

    def by_tag(self, repo: Repo, tag: str) -> Artifact:
        """Return the ModelPack artifact of a tag: of a revision, or of a quantization of main.

        Raises AnswerError, and what reading raises.
        """
        if revision := self._named(repo, tag):
            return self._pack(revision, "")
        main = repo.revision(DEFAULT_REVISION)
        if main and (model := gguf_files.find_model(self._models(main), tag)):
            return self._pack(main, model.files[0].path)
        try:
            # It may have been carried since the last refresh.
            return self._pack(self._index.revision(repo.repo_type, repo.repo_id, tag), "")
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
        return self._ollama(main, model)

    def by_digest(self, repo: Repo, digest: Digest) -> Artifact:
        """Return the artifact with a digest; raises AnswerError, and what reading raises."""
        found = (artifact for artifact in self._all(repo) if artifact.digest == digest)
        if artifact := next(found, None):
            return artifact
        raise unknown_manifest(repo, digest)

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
        found = (artifact.blobs[digest] for artifact in self._all(repo) if digest in artifact.blobs)
        return next(found, None)

    def _named(self, repo: Repo, tag: str) -> Revision | None:
        """Return the revision with this tag, name or commit; also a former commit of a tag."""
        if tag == LATEST:
            return repo.revision(DEFAULT_REVISION)
        revisions = self._index.revisions(repo)
        matches = (item for item in revisions if tag in {_tag_of(item.name), item.commit})
        return repo.revision(tag) or next(matches, None)

    def _servable(self, repo: Repo) -> Iterator[Revision]:
        return (revision for revision in self._index.revisions(repo) if not _obstacle(revision))

    def _all(self, repo: Repo) -> Iterator[Artifact]:
        """Yield all artifacts of a repo that can be made."""
        for revision in self._servable(repo):
            # What one artifact lacks must not hide the others.
            with suppress(AnswerError):
                yield self._pack(revision, "")
            for model in self._models(revision):
                with suppress(AnswerError):
                    yield self._ollama(revision, model)
                with suppress(AnswerError):
                    yield self._pack(revision, model.files[0].path)

    def _models(self, revision: Revision) -> list[GgufModel]:
        return gguf_files.gguf_models(self._index.files(revision).in_order())

    def _pack(self, revision: Revision, path: str) -> Artifact:
        """Return the ModelPack artifact of all files, or without the GGUF files of other models than that of `path`."""
        return self._made.get((revision.digest, "pack", path), lambda: self._make_pack(revision, path))

    def _make_pack(self, revision: Revision, path: str) -> Artifact:
        files, facts = self._checked(revision), read_facts(self._index, revision)
        chosen = list(files.in_order())
        if path:
            model = next(model for model in self._models(revision) if model.files[0].path == path)
            chosen = [file for file in chosen if not gguf_files.is_of_other(file, model)]
            facts = replace(facts, quantization=model.label or facts.quantization)
        artifact = model_pack(revision, chosen, facts)
        if len(artifact.manifest.data) > MAX_MANIFEST_SIZE:
            raise unsupported(revision, f"{len(chosen):,} files are too many for one manifest")
        return artifact

    def _ollama(self, revision: Revision, model: GgufModel) -> Artifact:
        key = (revision.digest, "ollama", model.files[0].path)
        return self._made.get(key, lambda: self._make_ollama(revision, model))

    def _make_ollama(self, revision: Revision, model: GgufModel) -> Artifact:
        files = self._checked(revision)
        if params := _small(files, "params"):
            self._check_params(revision, params)
        licenses = (_small(files, name) for name in _LICENSES)
        custom = Customization(
            template=_small(files, "template"),
            params=params,
            system=_small(files, "system"),
            license=next(filter(None, licenses), None),
        )
        facts = replace(read_facts(self._index, revision), quantization=None)
        return ollama_artifact(model, gguf_files.projector(files.in_order()), custom, facts)

    def _checked(self, revision: Revision) -> Files:
        """Return the files of a revision if each of them can be a blob; raises AnswerError."""
        if obstacle := _obstacle(revision):
            raise unsupported(revision, obstacle)
        return self._index.files(revision)

    def _check_params(self, revision: Revision, params: IndexedFile) -> None:
        """Raise AnswerError if ollama could not load the model because of its params."""
        data = self._index.read(revision, params.path, _MAX_CUSTOM) or b""
        try:
            parse_object(data, params.path)
        except IntegrityError as error:
            raise no_ollama(f"{revision.repo_id}: {error}") from error


def _obstacle(revision: Revision) -> str | None:
    """Return why the files of an image cannot be blobs; None if they can."""
    if revision.files is None:
        return "llmstack did not write this image, so the hashes of its files are not known"
    if revision.needs_extract:
        return "files are in compressed layers"
    return None if revision.files else "it has no files"


def _small(files: Files, path: str) -> IndexedFile | None:
    file = files.files.get(path)
    return file if file and 0 < file.size <= _MAX_CUSTOM else None


def _by_hash(files: Files) -> list[str]:
    """Return the paths of files, sorted by hash."""
    return sorted(files.paths, key=partial(_hash_of, files))


def _hash_of(files: Files, path: str) -> str:
    return files.files[path].sha256


def _tag_of(name: str) -> str:
    """Return a name with `_` for the characters that no tag can contain."""
    return _NOT_IN_TAG.sub("_", name)
