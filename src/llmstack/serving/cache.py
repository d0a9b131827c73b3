"""The files of images, kept by digest as long as there is room: read once however many ask at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from llmstack.oci.reference import Digest
from llmstack.serving.values import Files, Revision

# All files that are kept; a file is about half a kilobyte in memory. The last image read is kept whatever its size.
MAX_FILES = 200_000


class FilesCache:
    """Keeps what `read` returns for a revision; safe in threads."""

    def __init__(self, read: Callable[[Revision], Files]) -> None:
        self._read = read
        self._kept: OrderedDict[Digest, Files] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()
        self._reading: defaultdict[Digest, threading.Lock] = defaultdict(threading.Lock)

    def get(self, revision: Revision) -> Files:
        """Return the files of a revision; raises what reading them raises."""
        if (files := self._look_up(revision.digest)) is not None:
            return files
        with self._lock:
            turn = self._reading[revision.digest]
        try:
            with turn:
                if (files := self._look_up(revision.digest)) is None:
                    files = self._read(revision)
                    self.put(revision, files)
                return files
        finally:
            with self._lock:
                self._reading.pop(revision.digest, None)

    def put(self, revision: Revision, files: Files) -> None:
        """Keep the files of a revision, and let those go that were not asked for longest."""
        with self._lock:
            if revision.digest not in self._kept:
                self._kept[revision.digest] = files
                self._count += len(files.files)
            while self._count > MAX_FILES and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._count -= len(oldest.files)

    def _look_up(self, digest: Digest) -> Files | None:
        with self._lock:
            if (files := self._kept.get(digest)) is not None:
                self._kept.move_to_end(digest)
            return files
