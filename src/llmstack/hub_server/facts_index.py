"""The facts of repos, read from their files once and kept in memory by digest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from threading import BoundedSemaphore, Event

from llmstack.errors import IntegrityError, LlmstackError, NotFoundError, UnavailableError
from llmstack.hf.front_matter import README, parse_card
from llmstack.hub_server.error_answers import AnswerError
from llmstack.hub_server.image_files import read_range
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.packed_weights import Quantization
from llmstack.hub_server.repo_facts import (
    CONFIG,
    CONFIGS,
    Facts,
    Json,
    Weights,
    facts_of,
    gguf_files,
    safetensors_files,
)
from llmstack.hub_server.repo_index import RepoIndex
from llmstack.hub_server.repos import Repo, Revision
from llmstack.hub_server.tensor_headers import (
    LENGTH,
    MAX_GGUF,
    Gguf,
    read_gguf,
    safetensors_length,
    safetensors_parameters,
)
from llmstack.net.parallel import run_all
from llmstack.oci.reference import Digest

# Limits of the caches: bytes of cards, configs and tags; and the number of repos and files whose headers were read.
_MAX_FACTS = 32 * 1024 * 1024
_MAX_HEADERS = 10_000
_MAX_CONFIG = 1024 * 1024
# A larger README is not shown, and not checked before its card is read.
MAX_README = 1024 * 1024
# A card is in the first bytes of a README.
_CARD = 128 * 1024
# Most headers of safetensors fit into the first read.
_FIRST = 64 * 1024
_MAX_SHARDS = 512
_MAX_SHARDS_HEADERS = 128 * 1024 * 1024
# Headers that are read at a time, since they take memory; and the longest wait for it, in seconds.
_READERS = 4
_LONGEST_WAIT = 5.0
# Cards that one request reads at a time.
_PARALLEL = 8


class FactsIndex:
    """The facts of the repos of an index; thread-safe.

    Files that are missing, invalid or damaged declare nothing. All methods raise UnavailableError and
    NotAuthorizedError if the registry does not return a file now, and what listing the files raises.
    """

    def __init__(self, repo_index: RepoIndex) -> None:
        self._repo_index = repo_index
        self._facts = Cache[Digest, Facts](_MAX_FACTS, _weight)
        self._safetensors = Cache[Digest, dict[str, int] | None](_MAX_HEADERS, lambda _: 1)
        self._gguf = Cache[tuple[str, str], Gguf | None](_MAX_FACTS, lambda header: 256 + _template(header))
        self._readers = BoundedSemaphore(_READERS)

    def known(self, repos: Iterable[Repo]) -> dict[Digest, Facts]:
        """Return the facts that are in memory, for `add`."""
        found = {repo.shown.digest: self._facts.peek(repo.shown.digest) for repo in repos}
        return {digest: facts for digest, facts in found.items() if facts}

    def add(self, facts: Mapping[Digest, Facts]) -> None:
        """Add what another process has read."""
        for digest, found in facts.items():
            self._facts.put(digest, found)

    def facts(self, revision: Revision) -> Facts:
        """Return what the card and the config of a repo declare."""
        return self._facts.get(revision.digest, lambda: self._read_facts(revision))

    def now(self, revision: Revision) -> Facts:
        """Return the facts; those of no files if they cannot be read now."""
        try:
            return self.facts(revision)
        except LlmstackError:
            return _nothing(revision)

    def in_memory(self, revision: Revision) -> Facts | None:
        """Return the facts; None for those that were not read yet."""
        return self._facts.peek(revision.digest)

    def listed(self, revision: Revision) -> Facts:
        """Return the facts for a list. An image without a file index declares nothing: its layers would be read."""
        return self.facts(revision) if revision.files is not None else _nothing(revision)

    def select(self, repos: Iterable[Repo], accepts: Callable[[Facts], bool]) -> list[Repo]:
        """Return the repos whose facts are accepted, in order."""
        found = list(repos)
        missing = [repo.shown for repo in found if self._facts.peek(repo.shown.digest) is None]
        if missing:
            run_all(self.listed, missing, _PARALLEL, Event())
        return [repo for repo in found if accepts(self.listed(repo.shown))]

    def all_weights(self, repos: Sequence[Repo]) -> list[Weights]:
        """Return the weights of each repo; nothing is known of those without a file index."""

        def listed(repo: Repo) -> Weights:
            return Weights() if repo.shown.files is None else self.weights(repo.shown)

        return run_all(listed, repos, _READERS, Event())

    def read_all(self) -> None:
        """Read the facts of all listed repos, so that lists need not; not those that cannot be read now."""
        with suppress(LlmstackError):
            for repo in self._repo_index.repos():
                self.listed(repo.shown)

    def weights(self, revision: Revision) -> Weights:
        """Return what the headers of the weight files say."""
        try:
            paths = self._repo_index.files(revision).paths if revision.repo_type == "model" else []
        except (AnswerError, IntegrityError, NotFoundError):
            return Weights()
        safetensors = self._safetensors.get(revision.digest, lambda: self._read_safetensors(revision, paths))
        parts = [self.gguf(revision, path) for path in gguf_files(paths)[:_MAX_SHARDS]]
        if not parts or not (first := parts[0]) or None in parts:
            return Weights(safetensors)
        total = sum(part.total for part in parts if part)
        return Weights(safetensors, Gguf(total, *(getattr(first, name) for name in _GGUF_FIELDS)))

    def gguf(self, revision: Revision, path: str) -> Gguf | None:
        """Return the header of a GGUF file; None for a file that is missing or has no valid header."""
        file = self._repo_index.files(revision).files.get(path)
        if file is None:
            return None
        # The files of an image without a file index have no known hash.
        key = (file.sha256, "") if file.sha256 else (revision.digest, path)
        return self._gguf.get(key, lambda: self._read_gguf(revision, path))

    def _read_facts(self, revision: Revision) -> Facts:
        try:
            paths = self._repo_index.files(revision).files.keys()
        except (AnswerError, IntegrityError, NotFoundError):
            return _nothing(revision)
        readme = self._start(revision, README, _CARD, MAX_README)
        names = [name for name in CONFIGS if name in paths] if revision.repo_type == "model" else []
        configs = {name: _parse_config(self._start(revision, name, 0, _MAX_CONFIG)) for name in names}
        text = readme.decode(errors="replace")
        first = next(iter(gguf_files(paths)), None) if revision.repo_type == "model" else None
        gguf = self.gguf(revision, first) if first else None
        return facts_of(revision.repo_type, parse_card(text), configs, paths, revision.license, text, gguf)

    def _start(self, revision: Revision, path: str, start: int, limit: int) -> bytes:
        """Return a file of up to `limit` bytes, the first `start` bytes of a larger one, nothing of a missing one."""
        try:
            if (data := self._repo_index.read(revision, path, limit)) is not None:
                return data
            return self._range(revision, path, 0, start)
        except (AnswerError, IntegrityError, NotFoundError):
            return b""

    def _range(self, revision: Revision, path: str, start: int, stop: int) -> bytes:
        files = self._repo_index.files(revision)
        if (file := files.files.get(path)) is None:
            return b""
        with closing(read_range(revision, files, file, start, min(stop, file.size))) as chunks:
            return b"".join(chunks)

    def _read_safetensors(self, revision: Revision, all_paths: Iterable[str]) -> dict[str, int] | None:
        paths = safetensors_files(all_paths)
        if not paths or len(paths) > _MAX_SHARDS:
            return None
        found: dict[str, int] = {}
        left = _MAX_SHARDS_HEADERS
        with _Turn(self._readers):
            try:
                quantization = Quantization.parse(_parse_config(self._start(revision, CONFIG, 0, _MAX_CONFIG)))
                for path in paths:
                    header = self._safetensors_header(revision, path)
                    left -= len(header)
                    if left < 0:
                        return None
                    for name, count in safetensors_parameters(header, quantization).items():
                        found[name] = found.get(name, 0) + count
            except (AnswerError, IntegrityError, NotFoundError):
                return None
        return found

    def _safetensors_header(self, revision: Revision, path: str) -> bytes:
        first = self._range(revision, path, 0, _FIRST)
        stop = LENGTH + safetensors_length(first[:LENGTH])
        return first[LENGTH:stop] if stop <= len(first) else first[LENGTH:] + self._range(revision, path, _FIRST, stop)

    def _read_gguf(self, revision: Revision, path: str) -> Gguf | None:
        files = self._repo_index.files(revision)
        file = files.files[path]
        with _Turn(self._readers):
            try:
                with closing(read_range(revision, files, file, 0, min(MAX_GGUF, file.size))) as chunks:
                    return read_gguf(chunks)
            except (AnswerError, IntegrityError, NotFoundError):
                return None


class _Turn:
    """One of the readers of headers; raises UnavailableError if all are busy for too long."""

    def __init__(self, readers: BoundedSemaphore) -> None:
        self._readers = readers

    def __enter__(self) -> None:
        if not self._readers.acquire(timeout=_LONGEST_WAIT):
            raise UnavailableError("the registry is slow: headers of other weight files are being read")

    def __exit__(self, *_: object) -> None:
        self._readers.release()


_GGUF_FIELDS = ("architecture", "context_length", "chat_template", "file_type")


def _nothing(revision: Revision) -> Facts:
    return facts_of(revision.repo_type, {}, {}, (), revision.license)


def _parse_config(data: bytes) -> Json:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _weight(facts: Facts) -> int:
    return 500 + len(json.dumps([facts.card, facts.config])) + sum(map(len, facts.tags))


def _template(header: Gguf | None) -> int:
    return len(header.chat_template or "") if header else 0
