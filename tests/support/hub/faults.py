"""What a loopback hub is told to do wrong, where, and how often."""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from tests.support.webserver import Disturbance, Request

Host = Literal["hub", "cdn"]


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong, for requests whose decoded URL path matches a glob, `times` times (None: always).

    `status` (with `retry_after` in seconds, or other `headers`) answers instead of the resource. All others need a
    response that carries a file's bytes and leave every other alone: `drop_after` closes the connection after so
    many bytes of the body, `stall_after` falls silent there, `bytes_per_second` is slow, `truncate_to` serves a
    shorter file as if it were whole, `corrupt_at` changes the byte at that offset of the file, `ignore_range`
    answers 200 to a Range, `expire` makes every URL that is signed so far worthless. `taken` counts.
    """

    pattern: str
    times: int | None = 1
    host: Host | None = None
    methods: Collection[str] = ("GET",)
    status: int | None = None
    retry_after: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    stall_after: int | None = None
    bytes_per_second: int | None = None
    truncate_to: int | None = None
    corrupt_at: int | None = None
    ignore_range: bool = False
    expire: bool = False
    taken: int = 0

    @property
    def disturbance(self) -> Disturbance:
        return Disturbance(self.drop_after, self.stall_after, self.bytes_per_second)


class Faults:
    """The faults of a hub; each request takes at most one."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, host: Host, request: Request, *, carries_file: bool) -> Fault | None:
        """Return the first fault for this request, counted off: one with a status, or one for an answer with a file."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults:
                if (
                    (fault.status is None) is carries_file
                    and fault.times != 0
                    and fault.host in {None, host}
                    and request.method in fault.methods
                    and fnmatchcase(request.path, fault.pattern)
                ):
                    if fault.times is not None:
                        fault.times -= 1
                    fault.taken += 1
                    return fault
        return None
