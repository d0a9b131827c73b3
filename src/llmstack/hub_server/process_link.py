"""Messages between the processes of a hub."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from queue import SimpleQueue

from llmstack.hub_server.index_change import Change
from llmstack.hub_server.repo_facts import Facts
from llmstack.oci.reference import Digest

Message = Change | Mapping[Digest, Facts]


class ProcessLink:
    """One end of a connection. A thread sends, so that nobody waits for a process that is slow or stopped."""

    def __init__(self, descriptor: int) -> None:
        self._connection = Connection(descriptor)
        self._queue = SimpleQueue[Message | None]()
        self._is_open = True
        threading.Thread(target=self._send_all, name="link", daemon=True).start()

    def send(self, message: Message) -> None:
        """Send a message later; raises BrokenPipeError if the other process has ended."""
        if not self._is_open:
            raise BrokenPipeError
        self._queue.put(message)

    def received(self) -> Iterator[Message]:
        """Yield messages until the other process ends."""
        try:
            while True:
                yield self._connection.recv()
        except (EOFError, OSError):
            self._is_open = False
            self._queue.put(None)

    def _send_all(self) -> None:
        with self._connection:
            while (message := self._queue.get()) is not None:
                try:
                    self._connection.send(message)
                except OSError:
                    self._is_open = False
                    return


def pass_link(*controls: socket.socket) -> None:
    """Give each of two processes one end of a new connection; raises OSError if one has ended."""
    ends = socket.socketpair()
    with ends[0], ends[1]:
        for control, end in zip(controls, ends, strict=True):
            socket.send_fds(control, [b"link"], [end.fileno()])


def passed_links(control: socket.socket) -> Iterator[ProcessLink]:
    """Yield the links that the supervisor passes, until it ends."""
    while descriptors := socket.recv_fds(control, 4, 1)[1]:
        yield ProcessLink(descriptors[0])
