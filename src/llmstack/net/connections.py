"""urllib3 connections that a Cancel can end, with one timeout for sending and receiving."""

from __future__ import annotations

from typing import Any, ClassVar

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from llmstack.net.cancel import Cancel, Cancelled

# These methods change nothing on the server, so their transfer may be cut anywhere.
SAFE_METHODS = frozenset({"GET", "HEAD"})

PoolClasses = dict[str, type[urllib3.HTTPConnectionPool]]


class _CancellableConnection(HTTPConnection):
    cancel: ClassVar[Cancel]
    idle_timeout: ClassVar[float]
    _reading = False

    def connect(self) -> None:
        super().connect()
        # urllib3 keeps the connect timeout while it sends a body; a registry may pause for longer.
        self.sock.settimeout(self.idle_timeout)
        self.cancel.register(self.sock, reading=self._reading)

    def request(self, method: str, url: str, *args: Any, **options: Any) -> None:  # noqa: ANN401 - passed on
        self._reading = method in SAFE_METHODS
        if self.sock is not None:
            self.sock.settimeout(self.idle_timeout)
            self.cancel.register(self.sock, reading=self._reading)
        super().request(method, url, *args, **options)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as in urllib3's own
        # If the cancel came after the check before the request, nothing else would wake this thread.
        if self._reading and self.cancel.is_set():
            raise Cancelled("cancelled")
        return super().getresponse()


class _CancellableTlsConnection(_CancellableConnection, HTTPSConnection):
    pass


def pool_classes(cancel: Cancel, idle_timeout: float) -> PoolClasses:
    """Return the value for PoolManager.pool_classes_by_scheme of one client.

    `idle_timeout` is the number of seconds without a byte in either direction.
    """
    own = {"cancel": cancel, "idle_timeout": idle_timeout}
    plain = type("Connection", (_CancellableConnection,), own)
    secure = type("TlsConnection", (_CancellableTlsConnection,), own)
    return {
        "http": type("Pool", (urllib3.HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("TlsPool", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
