"""What is there: the repos that the places hold, listed again and again, and kept in memory by digest."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

from llmstack.carried_image.naming import DEFAULT_REVISION
from llmstack.carried_image.places import Place
from llmstack.errors import LlmstackError, NotAuthorizedError, UnavailableError
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.error_answers import repo_not_found, revision_not_found
from llmstack.hub_server.listing import digests, tags_of
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.opening import open_files, open_revision
from llmstack.hub_server.reading import read_range
from llmstack.hub_server.repos import Files, Repo, Revision, make_repo
from llmstack.hub_server.turn import Turn
from llmstack.net.parallel import run_all
from llmstack.oci.reference import Digest

# What is kept in memory: files of indexes (about 750 bytes each), and bytes of small files.
_MAX_FILES = 200_000
_MAX_SMALL = 32 * 1024 * 1024
# Images whose tag has moved on while a client was still fetching them.
_MAX_FORMER = 256
# How long what was not there is taken for not there, in seconds, and of how many names that is remembered.
_LOOK_AGAIN = 10.0
_MAX_LOOKED = 10_000
# How long a request waits while another one has something looked for, in seconds.
_LONGEST_TURN = 1.0
Key = tuple[RepoType, str]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a tag named when it was last read; no revision for what is no repo."""

    digest: Digest
    revision: Revision | None


class RepoIndex:
    """The repos of some places, called `name`; safe in threads. `note` hears of images that cannot be used."""

    def __init__(self, name: str, places: Sequence[Place], jobs: int, note: Callable[[str], None]) -> None:
        self.name = name
        self._places = places
        self._jobs = jobs
        self._note = note
        self._files = Cache[Digest, Files](_MAX_FILES, lambda files: len(files.files))
        self._small = Cache[tuple[Digest, str], bytes](_MAX_SMALL, len)
        self._lock = threading.Lock()
        self._looking = Turn(_LONGEST_TURN)
        self._looked: dict[tuple[RepoType, str, str], float] = {}
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
        if self.refreshed is None:
            raise UnavailableError("what is there has not been listed yet")
        if (kind, repo_id) not in self._repos:
            self._look(kind, repo_id, DEFAULT_REVISION)
        repo = self._repos.get((kind, repo_id))
        if repo is None:
            raise repo_not_found(kind, repo_id)
        return repo

    def revision(self, kind: RepoType, repo_id: str, name: str) -> Revision:
        """Return a repo's revision by its name or commit; raises AnswerError (RepoNotFound, RevisionNotFound)."""
        if found := self._known(kind, repo_id, name):
            return found
        if self.refreshed is not None:
            self._look(kind, repo_id, name)
        repo = self.find(kind, repo_id)
        if found := self._known(kind, repo_id, name):
            return found
        raise revision_not_found(repo_id, name, [revision.name for revision in repo.revisions])

    def files(self, revision: Revision) -> Files:
        """Return the files of a revision, read where they are not in memory; raises as reading an image does."""
        return self._files.get(revision.digest, lambda: open_files(revision))

    def read(self, revision: Revision, path: str, limit: int) -> bytes | None:
        """Return a small file, None if there is none or it is larger than `limit` bytes; raises as reading does.

        It is kept in memory: this is for what is asked for again and again, such as a README.
        """
        files = self.files(revision)
        file = files.files.get(path)
        if file is None or file.size > limit:
            return None
        key = (revision.digest, path)
        return self._small.get(key, lambda: b"".join(read_range(revision, files, file, 0, file.size)))

    def refresh(self) -> None:
        """List the places; images are only read when their tag names another digest than before.

        A namespace may hold repos of one type alone, and some registries say of a repository that is not there that
        this login may not read it. So that is an error only where it is said of all places, or of one that was listed
        before.

        Raises LlmstackError when a place cannot be listed or an image not be read for now: what was known stays.
        """
        known = set(self._seen)
        present: set[tuple[int, str]] = set()
        failed: list[LlmstackError] = []
        refused: list[NotAuthorizedError] = []
        for number, place in enumerate(self._places):
            try:
                named = digests(place.reader, self._jobs)
            except NotAuthorizedError as error:
                refused.append(error)
                if len(refused) == len(self._places):
                    raise
                if kept := {key for key in known if key[0] == number}:
                    present |= kept
                    failed.append(error)
                continue
            present |= {(number, tag) for tag in named}
            moved = [item for item in named.items() if not self._knows(number, *item)]
            failed += filter(None, run_all(partial(self._read, number), moved, self._jobs, Event()))
        with self._lock:
            for key in known - present:
                self._retire(self._seen.pop(key))
        self._publish()
        self.refreshed = time.time()
        if failed:
            raise failed[0]

    def _known(self, kind: RepoType, repo_id: str, name: str) -> Revision | None:
        repo = self._repos.get((kind, repo_id))
        return (repo and repo.revision(name)) or self._former.get((kind, repo_id, name))

    def _look(self, kind: RepoType, repo_id: str, name: str) -> None:
        """Look whether a repo that is asked for was carried since the last listing, or by another name than was known.

        Not more often than now and then for each name: a miss may cost a request or two, and many misses no more.
        Raises UnavailableError where the registry cannot be asked now, or is still busy with another name.
        """
        key = (kind, repo_id, name)
        if self._has_looked(key):
            return
        with self._looking.taken():
            if self._has_looked(key):
                return
            for number, place in enumerate(self._places):
                if place.repo_type in {None, kind}:
                    self._look_at(number, place, tags_of(repo_id, name))
            if len(self._looked) >= _MAX_LOOKED:
                self._looked.clear()
            self._looked[key] = time.monotonic() + _LOOK_AGAIN

    def _has_looked(self, key: tuple[RepoType, str, str]) -> bool:
        return time.monotonic() < self._looked.get(key, 0.0)

    def _look_at(self, number: int, place: Place, tags: Sequence[str]) -> None:
        try:
            named = digests(place.reader, self._jobs, tags)
        except NotAuthorizedError:
            return
        for tag, digest in named.items():
            if not self._knows(number, tag, digest):
                if error := self._read(number, (tag, digest)):
                    raise error
                self._publish()

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
                    self._files.put(revision.digest, files)
        except LlmstackError as error:
            self._note(f"{place.reader.name}:{tag} is left out: {error}")
            if isinstance(error, UnavailableError | NotAuthorizedError):
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
