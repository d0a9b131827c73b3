"""The request log of a loopback hub."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.support.hub.faults import Host


@dataclass(frozen=True, slots=True)
class Logged:
    """One request with its response; `path` is decoded, `length` is the Content-Length of the response."""

    host: Host
    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int
    length: int

    @property
    def is_file(self) -> bool:
        """Whether the request is for the bytes or headers of a file, on either host."""
        return self.host == "cdn" or "/resolve/" in self.path or "/resolve-cache/" in self.path

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization")


class RequestLog:
    """All requests, in the order of their responses; an entry is added before its response is sent."""

    def __init__(self) -> None:
        self._entries: list[Logged] = []
        self._lock = threading.Lock()

    def add(self, entry: Logged) -> None:
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()

    def all(self, pattern: str = "*", *, method: str | None = None, host: Host | None = None) -> list[Logged]:
        """Return the requests whose path matches a glob."""
        with self._lock:
            entries = list(self._entries)
        return [
            entry
            for entry in entries
            if fnmatchcase(entry.path, pattern) and method in {None, entry.method} and host in {None, entry.host}
        ]

    def files(self, pattern: str = "*", *, method: str | None = "GET") -> list[Logged]:
        """Return the requests for files (by default those for their bytes) whose path matches a glob."""
        return [entry for entry in self.all(pattern, method=method) if entry.is_file]

    def __len__(self) -> int:
        return len(self._entries)
