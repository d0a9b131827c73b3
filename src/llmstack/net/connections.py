"""Connections that a cancel reaches, and that wait as long while sending as while receiving."""

from __future__ import annotations

from typing import Any, ClassVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from llmstack.net.cancel import Cancel, Cancelled

# What changes nothing on the other side, and may break off anywhere.
READS = frozenset({"GET", "HEAD"})

PoolClasses = dict[str, type[urllib3.HTTPConnectionPool]]


class _Watched(HTTPConnection):
    cancel: ClassVar[Cancel]
    silence: ClassVar[float]
    _reading = False

    def connect(self) -> None:
        super().connect()
        # urllib3 leaves the time for connecting in force while a body is sent; a registry may pause longer than that.
        self.sock.settimeout(self.silence)
        self.cancel.watch(self.sock, reading=self._reading)

    def request(self, method: str, url: str, *args: Any, **options: Any) -> None:  # noqa: ANN401 - passed on
        self._reading = method in READS
        if self.sock is not None:
            self.sock.settimeout(self.silence)
            self.cancel.watch(self.sock, reading=self._reading)
        super().request(method, url, *args, **options)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3's own
        # Cancelled between the look before the request and now: nobody would wake us.
        if self._reading and self.cancel.is_set():
            raise Cancelled("cancelled")
        return super().getresponse()


class _WatchedTLS(_Watched, HTTPSConnection):
    pass


def pool_classes(cancel: Cancel, silence: float) -> PoolClasses:
    """Return what PoolManager.pool_classes_by_scheme is to hold, for one client.

    `silence` is how many seconds may pass without a byte in either direction.
    """
    own = {"cancel": cancel, "silence": silence}
    plain = type("Connection", (_Watched,), own)
    secure = type("TLSConnection", (_WatchedTLS,), own)
    return {
        "http": type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TLSPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
