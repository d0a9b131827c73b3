"""The faults of a loopback hub."""

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
    """One fault, for requests whose decoded URL path matches a glob: after `skip` of them, for `times` (None: all).

    `status` (with `retry_after` in seconds, or other `headers`) replaces the response. All other faults apply only to
    responses with the bytes of a file: `drop_after` closes the connection after this number of bytes, `stall_after`
    sends nothing more after it, `bytes_per_second` limits the rate, `truncate_to` serves a shorter file as if it were
    complete, `corrupt_at` changes the byte at this offset of the file, `ignore_range` responds to a Range with 200,
    `expire` invalidates all signed URLs. `taken` counts.
    """

    pattern: str
    times: int | None = 1
    skip: int = 0
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
    """The faults of a hub; at most one applies to each request."""

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
        """Return the first fault for this request and count it: with a status, or for a response with a file."""
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
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    if fault.times is not None:
                        fault.times -= 1
                    fault.taken += 1
                    return fault
        return None
