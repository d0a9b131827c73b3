"""Sending a part of a file to a client with sendfile(2)."""

from __future__ import annotations

import asyncio
import os
import select
import socket

from llmstack.errors import IntegrityError

# Bytes and milliseconds until a thread is given back: the event loop waits for slow clients.
_MOST = 64 * 1024 * 1024
_PATIENCE = 5


class FileSending:
    """Sends `left` bytes of a file to a connection; a thread reads the disk, the event loop waits for the client."""

    def __init__(self, connection: int, file: int, offset: int, left: int) -> None:
        # Its own descriptor: the number of the other one may be used again when the connection is closed.
        self._socket = socket.socket(fileno=os.dup(connection))
        self._file = file
        self._offset = offset
        self.left = left

    async def run(self) -> None:
        """Send all bytes, unless the client disconnects; raises IntegrityError if the file is too short."""
        loop = asyncio.get_running_loop()
        with self._socket:
            try:
                while self.left:
                    pushing = loop.run_in_executor(None, self._push)
                    try:
                        is_fast = await asyncio.shield(pushing)
                    except asyncio.CancelledError:
                        # The descriptors stay open as long as the thread uses them.
                        self.cancel()
                        await asyncio.wait([pushing])
                        raise
                    if not is_fast:
                        await self._writable(loop)
            except ConnectionError:
                return

    def cancel(self) -> None:
        """Let the next bytes fail: the connection has been closed."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _push(self) -> bool:
        """Send some bytes; tell whether the client reads fast enough to go on at once."""
        stop = max(0, self.left - _MOST)
        poller = select.poll()
        poller.register(self._socket, select.POLLOUT)
        while self.left > stop:
            try:
                sent = os.sendfile(self._socket.fileno(), self._file, self._offset, self.left - stop)
            except BlockingIOError:
                if not poller.poll(_PATIENCE):
                    return False
                continue
            if not sent:
                raise IntegrityError("the file is truncated")
            self._offset += sent
            self.left -= sent
        return True

    async def _writable(self, loop: asyncio.AbstractEventLoop) -> None:
        ready = asyncio.Event()
        loop.add_writer(self._socket, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._socket)
