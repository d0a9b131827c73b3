"""A response whose bytes come from a transfer, at the pace at which the client takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmstack.hub_server.threads import Transfer


class Streamed(Response):
    """Sends a transfer's chunks and closes it, also when the client goes away before the end.

    Raises what the transfer raises: the server then breaks the connection off, which tells the client.
    """

    def __init__(self, transfer: Transfer, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._transfer = transfer

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer (ASGI 3)."""
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            while (chunk := await self._transfer.next()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                if gone.done():
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()
            self._transfer.close()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
