"""The repos of a namespace or a layout: listed again and again, and kept in memory by digest."""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

from llmstack.carried_image.naming import DEFAULT_REVISION, tag_for
from llmstack.carried_image.open_location import ImageReader
from llmstack.errors import LlmstackError, NotAuthorizedError, UnavailableError, UsageError
from llmstack.hf.snapshot import RepoType
from llmstack.hub_server.bounded_lock import BoundedLock
from llmstack.hub_server.error_answers import (
    AnswerError,
    MovedError,
    ambiguous_repo,
    repo_not_found,
    revision_not_found,
)
from llmstack.hub_server.image_files import open_files, open_revision, read_file
from llmstack.hub_server.index_change import Change, pack, unpack
from llmstack.hub_server.lru_cache import Cache
from llmstack.hub_server.repos import Files, Repo, Revision, make_repo
from llmstack.net.parallel import run_all
from llmstack.oci.reference import Digest
from llmstack.reporting import write_traceback

# Limits of the caches: files of indexes (about 750 bytes each), and bytes of small files.
_MAX_FILES = 200_000
_MAX_SMALL = 32 * 1024 * 1024
# Images whose tag has moved while clients may still be downloading them.
_MAX_FORMER = 256
# A name that was not found is looked up again after this time, in seconds; and the number of such names in memory.
_MISS_SECONDS = 10.0
_MAX_MISSES = 10_000
# A request waits this long while another one looks up a name, in seconds.
_LONGEST_WAIT = 1.0
# `/refs` has the names of branches and tags with these.
_REFS = ("refs/heads/", "refs/tags/")
Key = tuple[RepoType, str]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a tag named when it was last read; no revision if it is not a repo."""

    digest: Digest
    revision: Revision | None


class RepoIndex:
    """The repos of `name`, a namespace or a layout; thread-safe.

    `note` gets a message per image that is left out. `share` is the number of processes that share the memory limits.
    """

    def __init__(
        self, name: str, sources: Sequence[ImageReader], jobs: int, note: Callable[[str], None], share: int = 1
    ) -> None:
        self.name = name
        self.share = share
        self._sources = sources
        self._jobs = jobs
        self._note = note
        self._files = Cache[Digest, Files](_MAX_FILES // share, lambda files: len(files.files))
        self._small = Cache[tuple[Digest, str], bytes](_MAX_SMALL // share, len)
        self._lock = threading.Lock()
        self._lookup = BoundedLock(_LONGEST_WAIT)
        self._misses: dict[tuple[RepoType, str, str], float] = {}
        self._seen: dict[tuple[int, str], _Seen] = {}
        # What has changed since the listeners were told; they are told in order.
        self._changed: set[tuple[int, str]] = set()
        self._telling = threading.Lock()
        self._listeners: list[Callable[[Change], None]] = []
        self._former: OrderedDict[tuple[RepoType, str, str], Revision] = OrderedDict()
        self._repos: Mapping[Key, Repo] = {}
        # The IDs of repos by their ID in lower case, and by the current one of renamed repos.
        self._ids: Mapping[Key, Collection[str]] = {}
        self.refreshed: float | None = None

    def repos(self, repo_type: RepoType | None = None) -> list[Repo]:
        """Return the repos of a type (None: all), sorted by ID; raises UnavailableError before the first refresh."""
        self.check_listed()
        return [repo for _, repo in sorted(self._repos.items()) if repo_type in {None, repo.repo_type}]

    def check_listed(self) -> None:
        """Raise UnavailableError before the first refresh."""
        if self.refreshed is None:
            raise UnavailableError(f"{self.name}: not listed yet")

    @property
    def count(self) -> int:
        """The number of repos."""
        return len(self._repos)

    def is_listed(self, repo_type: RepoType, repo_id: str) -> bool:
        """Tell whether a repo is known, without asking the registry."""
        return (repo_type, repo_id) in self._repos

    def find(self, repo_type: RepoType, repo_id: str) -> Repo:
        """Return one repo; raises UnavailableError before the first refresh.

        Raises MovedError for another ID of one repo, AnswerError (RepoNotFound) for unknown ones.
        """
        self.check_listed()
        if (repo_type, repo_id) not in self._repos:
            self._look_up(repo_type, repo_id, DEFAULT_REVISION)
        repo = self._repos.get((repo_type, repo_id))
        if repo is None:
            raise self._not_found(repo_type, repo_id)
        return repo

    def spelled(self, repo_type: RepoType, repo_id: str) -> str:
        """Return the ID of the one repo that has this ID in any case, else the given ID."""
        found = self._ids.get((repo_type, repo_id.lower()), ())
        return next(iter(found)) if len(found) == 1 else repo_id

    def _not_found(self, repo_type: RepoType, repo_id: str) -> AnswerError:
        found = self._ids.get((repo_type, repo_id.lower()), ())
        if len(found) == 1:
            return MovedError(next(iter(found)))
        return ambiguous_repo(repo_type, repo_id, found) if found else repo_not_found(repo_type, repo_id)

    def revision(self, repo_type: RepoType, repo_id: str, name: str) -> Revision:
        """Return a revision by its name, also with `refs/heads/` or `refs/tags/`, or by its commit.

        `HEAD` is the default one, unless one has this name.

        Raises AnswerError (RevisionNotFound), and what `find` raises.
        """
        if found := self.known(repo_type, repo_id, name):
            return found
        if short := next((name.removeprefix(start) for start in _REFS if name.startswith(start)), ""):
            name = short
            if found := self.known(repo_type, repo_id, name):
                return found
        if self.refreshed is not None:
            self._look_up(repo_type, repo_id, name)
        repo = self.find(repo_type, repo_id)
        if found := self.known(repo_type, repo_id, name):
            return found
        raise revision_not_found(repo_id, name, [revision.name for revision in repo.revisions])

    def revisions(self, repo: Repo) -> list[Revision]:
        """Return the revisions of a repo, then those that its tags named before, the last one first."""
        with self._lock:
            former = [item for key, item in self._former.items() if key[:2] == (repo.repo_type, repo.repo_id)]
        return [*repo.revisions, *reversed(former)]

    def files(self, revision: Revision) -> Files:
        """Return the files of a revision; raises what opening its image raises."""
        return self._files.get(revision.digest, lambda: open_files(revision))

    def files_now(self, revision: Revision) -> Files | None:
        """Return the files of a revision if they are in memory."""
        return self._files.find(revision.digest)

    def read_now(self, revision: Revision, path: str) -> bytes | None:
        """Return a small file if it is in memory."""
        return self._small.find((revision.digest, path))

    def read(self, revision: Revision, path: str, limit: int) -> bytes | None:
        """Return a small file from the cache or the registry; None if it is missing or larger than `limit` bytes.

        Raises what reading raises; IntegrityError if the bytes do not match the file index.
        """
        files = self.files(revision)
        file = files.files.get(path)
        if file is None or file.size > limit:
            return None
        key = (revision.digest, path)
        return self._small.get(key, lambda: b"".join(read_file(revision, files, file)))

    def refresh(self) -> None:
        """List all tags; read an image only if its tag names another digest than before.

        Some registries deny access to a repository that does not exist, and a namespace may have repos of one type
        only. Denied access is an error only for all repositories, or for one that was listed before.

        Raises LlmstackError if tags cannot be listed or an image cannot be read for now: the known repos stay.
        """
        known = set(self._seen)
        present: set[tuple[int, str]] = set()
        failed: list[LlmstackError] = []
        refused: list[NotAuthorizedError] = []
        for number, source in enumerate(self._sources):
            try:
                named = source.reader.digests(None, self._jobs)
            except NotAuthorizedError as error:
                refused.append(error)
                if len(refused) == len(self._sources):
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
                self._changed.add(key)
        self._publish(time.time())
        if failed:
            raise failed[0]

    def known(self, repo_type: RepoType, repo_id: str, name: str) -> Revision | None:
        """Return a revision by its name or its commit, without looking it up; None for an unknown one."""
        repo = self._repos.get((repo_type, repo_id))
        found = (repo and repo.revision(name)) or self._former.get((repo_type, repo_id, name))
        return self.known(repo_type, repo_id, DEFAULT_REVISION) if not found and name == "HEAD" else found

    def _look_up(self, repo_type: RepoType, repo_id: str, name: str) -> None:
        """Look for a repo that was carried after the last refresh, at most once per name in _MISS_SECONDS.

        Raises UnavailableError if the registry does not answer, or is still busy with another name.
        """
        key = (repo_type, repo_id, name)
        if self._is_miss(key):
            return
        with self._lookup.held():
            if self._is_miss(key):
                return
            for number, source in enumerate(self._sources):
                if source.repo_type in {None, repo_type}:
                    self._look_up_tags(number, source, _possible_tags(repo_id, name))
            if len(self._misses) >= _MAX_MISSES:
                self._misses.clear()
            self._misses[key] = time.monotonic() + _MISS_SECONDS

    def _is_miss(self, key: tuple[RepoType, str, str]) -> bool:
        return time.monotonic() < self._misses.get(key, 0.0)

    def _look_up_tags(self, number: int, source: ImageReader, tags: Sequence[str]) -> None:
        try:
            named = source.reader.digests(tags, self._jobs)
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
        """Read the image that a tag names; return the error if it may be temporary."""
        source, (tag, digest) = self._sources[number], named
        revision = None
        try:
            opened = open_revision(source, tag, digest)
            if opened:
                revision, files = opened
                if files:
                    self._files.put(revision.digest, files)
        except LlmstackError as error:
            self._note(f"{source.reader.name}:{tag} is left out: {error}")
            if isinstance(error, UnavailableError | NotAuthorizedError):
                return error
        except Exception:
            # A bug that one image triggers must not hide the others.
            self._note(f"{source.reader.name}:{tag} is left out: a bug in llmstack")
            write_traceback(sys.stderr)
        with self._lock:
            self._retire(self._seen.get((number, tag)))
            self._seen[number, tag] = _Seen(digest, revision)
            self._changed.add((number, tag))
        return None

    def _retire(self, seen: _Seen | None) -> None:
        if seen and (former := seen.revision):
            self._former[former.repo_type, former.repo_id, former.commit] = former
            while len(self._former) > _MAX_FORMER:
                self._former.popitem(last=False)

    def subscribe(self, listener: Callable[[Change], None], *, snapshot: bool) -> None:
        """Call `listener` with each change that is found here, in order, until it raises OSError.

        With `snapshot`, it first gets all tags.
        """
        with self._telling:
            if snapshot:
                listener(self._change(self._seen, (), complete=True))
            self._listeners.append(listener)

    def apply(self, change: Change, *, forward: bool = False) -> None:
        """Apply a change of another process's index, and tell the listeners if they need to know."""
        with self._telling:
            self._apply(change)
            if forward:
                self._tell(change)

    def _apply(self, change: Change) -> None:
        with self._lock:
            for key, (digest, packed) in change.seen.items():
                if not self._knows(*key, digest):
                    self._retire(self._seen.get(key))
                    self._seen[key] = _Seen(digest, unpack(packed, self._sources[key[0]].reader) if packed else None)
            lacks = self._seen.keys() - change.seen.keys() if change.complete and change.refreshed else ()
            for key in {*change.gone, *lacks}:
                self._retire(self._seen.pop(key, None))
            for number, packed in change.former:
                former = unpack(packed, self._sources[number].reader)
                self._retire(_Seen(former.digest, former))
        self._show(change.refreshed)

    def _publish(self, refreshed: float | None = None) -> None:
        """Show what has been read, and tell the listeners."""
        with self._telling:
            is_first = self.refreshed is None and refreshed is not None
            with self._lock:
                keys, self._changed = self._changed, set()
                new = {key: self._seen[key] for key in keys if key in self._seen}
            self._show(refreshed)
            if self._listeners:
                seen = self._seen if is_first else new
                change = self._change(seen, keys - self._seen.keys(), complete=is_first)
                self._tell(change)

    def _tell(self, change: Change) -> None:
        for listener in list(self._listeners):
            try:
                listener(change)
            except OSError:
                # Its process has ended.
                self._listeners.remove(listener)

    def _change(
        self, seen: Mapping[tuple[int, str], _Seen], gone: Collection[tuple[int, str]], *, complete: bool
    ) -> Change:
        with self._lock:
            packed = {key: (item.digest, pack(item.revision) if item.revision else None) for key, item in seen.items()}
            former = [(self._number_of(item), pack(item)) for item in self._former.values()] if complete else []
        return Change(packed, gone, former, self.refreshed, complete)

    def _number_of(self, revision: Revision) -> int:
        return next(number for number, source in enumerate(self._sources) if source.reader is revision.reader)

    def _show(self, refreshed: float | None) -> None:
        with self._lock:
            revisions: dict[Key, list[Revision]] = defaultdict(list)
            for seen in self._seen.values():
                if seen.revision:
                    revisions[seen.revision.repo_type, seen.revision.repo_id].append(seen.revision)
            ids: dict[Key, set[str]] = defaultdict(set)
            renamed: dict[Key, set[str]] = defaultdict(set)
            for (repo_type, repo_id), found in revisions.items():
                ids[repo_type, repo_id.lower()].add(repo_id)
                for name in {revision.renamed_to for revision in found if revision.renamed_to}:
                    renamed[repo_type, name.lower()].add(repo_id)
            # A repo that was carried under the ID comes before one that has it on the Hub today.
            self._ids = {**renamed, **ids}
            self._repos = {key: make_repo(*key, found) for key, found in revisions.items()}
            self.refreshed = refreshed or self.refreshed


def _possible_tags(repo_id: str, name: str) -> list[str]:
    """Return the tags that a revision may have: `name` may also be the commit that main has moved to."""
    tags = []
    for revision in (name, "main"):
        try:
            tags.append(tag_for(repo_id, revision))
        except UsageError:
            # Too long for a tag: it cannot have been carried.
            continue
    return list(dict.fromkeys(tags))
