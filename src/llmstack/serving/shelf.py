"""What is there: the repos that the places hold, listed again and again, and kept in memory by digest."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

from llmstack.carried.parallel import run_all
from llmstack.carried.places import Place
from llmstack.errors import LlmstackError, NotFoundError, UnavailableError
from llmstack.hub.snapshot import RepoType
from llmstack.oci.layout import Layout
from llmstack.oci.reference import Digest
from llmstack.oci.repository import Repository
from llmstack.serving.cache import FilesCache
from llmstack.serving.errors import repo_not_found, revision_not_found
from llmstack.serving.opening import open_files, open_revision
from llmstack.serving.reading import read_range
from llmstack.serving.values import Files, Repo, Revision, make_repo

# Images whose tag has moved on while a client was still fetching them.
_MAX_FORMER = 256
Key = tuple[RepoType, str]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a tag named when it was last read; no revision for what is no repo."""

    digest: Digest
    revision: Revision | None


class Shelf:
    """The repos of some places, called `name`; safe in threads. `note` hears of images that cannot be used."""

    def __init__(self, name: str, places: Sequence[Place], jobs: int, note: Callable[[str], None]) -> None:
        self.name = name
        self._places = places
        self._jobs = jobs
        self._note = note
        self._cache = FilesCache(open_files)
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, str], _Seen] = {}
        self._former: OrderedDict[tuple[RepoType, str, str], Revision] = OrderedDict()
        self._repos: Mapping[Key, Repo] = {}
        self.refreshed: float | None = None

    def repos(self, kind: RepoType | None = None) -> list[Repo]:
        """Return the repos of a kind (None: both), sorted by id; raises UnavailableError before the first listing."""
        if self.refreshed is None:
            raise UnavailableError("what is there has not been listed yet")
        return [repo for _, repo in sorted(self._repos.items()) if kind in {None, repo.kind}]

    @property
    def count(self) -> int:
        """How many repos are there."""
        return len(self._repos)

    def find(self, kind: RepoType, repo_id: str) -> Repo:
        """Return one repo; raises AnswerError (RepoNotFound), UnavailableError before the first listing."""
        repo = self._repos.get((kind, repo_id))
        if repo is None:
            if self.refreshed is None:
                raise UnavailableError("what is there has not been listed yet")
            raise repo_not_found(kind, repo_id)
        return repo

    def revision(self, kind: RepoType, repo_id: str, name: str) -> Revision:
        """Return a repo's revision by its name or commit; raises AnswerError (RepoNotFound, RevisionNotFound)."""
        repo = self.find(kind, repo_id)
        found = repo.revision(name) or self._former.get((kind, repo_id, name))
        if found is None:
            raise revision_not_found(repo_id, name, [revision.name for revision in repo.revisions])
        return found

    def files(self, revision: Revision) -> Files:
        """Return the files of a revision, read where they are not in memory; raises as reading an image does."""
        return self._cache.get(revision)

    def read(self, revision: Revision, path: str, limit: int) -> bytes | None:
        """Return a small file, None if there is none or it is larger than `limit` bytes; raises as reading does."""
        files = self.files(revision)
        file = files.files.get(path)
        if file is None or file.size > limit:
            return None
        return b"".join(read_range(revision, files, file, 0, file.size))

    def refresh(self) -> None:
        """List the places; images are only read when their tag names another digest than before.

        Raises LlmstackError when a place cannot be listed or an image not be read for now: what was known stays.
        """
        present: set[tuple[int, str]] = set()
        failed: list[LlmstackError] = []
        for number, place in enumerate(self._places):
            digests = self._digests(place)
            present |= {(number, tag) for tag in digests}
            moved = [item for item in digests.items() if not self._knows(number, *item)]
            failed += filter(None, run_all(partial(self._read, number), moved, self._jobs, Event()))
        with self._lock:
            for key in self._seen.keys() - present:
                self._retire(self._seen.pop(key))
        self._publish()
        if failed:
            raise failed[0]

    def _digests(self, place: Place) -> dict[str, Digest]:
        reader = place.reader
        if isinstance(reader, Layout):
            return reader.digests()
        if not isinstance(reader, Repository):
            raise TypeError(reader)
        repository = reader

        def digest_of(tag: str) -> tuple[str, Digest] | None:
            try:
                return tag, repository.digest_of(tag)
            except NotFoundError:
                return None

        return dict(filter(None, run_all(digest_of, repository.tags(), self._jobs, Event())))

    def _knows(self, number: int, tag: str, digest: Digest) -> bool:
        seen = self._seen.get((number, tag))
        return seen is not None and seen.digest == digest

    def _read(self, number: int, named: tuple[str, Digest]) -> LlmstackError | None:
        """Read the image that a tag names; return what kept it from being read where that may pass."""
        place, (tag, digest) = self._places[number], named
        revision = None
        try:
            opened = open_revision(place, tag, digest)
            if opened:
                revision, files = opened
                if files:
                    self._cache.put(revision, files)
        except LlmstackError as error:
            self._note(f"{place.reader.name}:{tag} is left out: {error}")
            if isinstance(error, UnavailableError):
                return error
        with self._lock:
            self._retire(self._seen.get((number, tag)))
            self._seen[number, tag] = _Seen(digest, revision)
        return None

    def _retire(self, seen: _Seen | None) -> None:
        if seen and (former := seen.revision):
            self._former[former.kind, former.repo_id, former.commit] = former
            while len(self._former) > _MAX_FORMER:
                self._former.popitem(last=False)

    def _publish(self) -> None:
        with self._lock:
            revisions: dict[Key, list[Revision]] = defaultdict(list)
            for seen in self._seen.values():
                if seen.revision:
                    revisions[seen.revision.kind, seen.revision.repo_id].append(seen.revision)
            self._repos = {key: make_repo(*key, found) for key, found in revisions.items()}
            self.refreshed = time.time()
