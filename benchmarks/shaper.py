"""A link on loopback that is slower and longer than loopback: a TCP proxy that needs no privileges.

    python -m benchmarks.shaper HOST:PORT --connection 25 --total 200 --round-trip 60

Limits the bytes from the server (MB/s of one connection, and of all), and delays both directions. The first line of
its output is the address to connect to. It does not model packet loss and the slow start of TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIECE = 64 * 1024
# Pieces in transit, for links without a limit.
IN_TRANSIT = 512


@dataclass(frozen=True, slots=True)
class Link:
    """Bytes per second of one connection and of all together (None: no limit), and the round trip in seconds."""

    connection: float | None = None
    total: float | None = None
    round_trip: float = 0.0


class Pace:
    """Lets bytes pass at a rate."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def wait(self, size: int) -> None:
        """Wait until `size` more bytes may pass."""
        if self._rate is None:
            return
        now = time.monotonic()
        # Up to 20 ms are made up for: timers are late.
        self._free_at = max(self._free_at, now - 0.02) + size / self._rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class Shaper:
    """Forwards connections to `host`:`port` through a link."""

    def __init__(self, host: str, port: int, link: Link) -> None:
        self._upstream = host, port
        self._link = link
        self._total = Pace(link.total)

    async def serve(self) -> asyncio.Server:
        """Listen on a free port."""
        return await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=PIECE, backlog=256)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The handshake of TCP, which loopback has already answered.
        await asyncio.sleep(self._link.round_trip)
        with contextlib.suppress(OSError):
            upstream, to_upstream = await asyncio.open_connection(*self._upstream, limit=PIECE)
            try:
                answers = asyncio.create_task(
                    self._forward(upstream, writer, [Pace(self._link.connection), self._total])
                )
                requests = asyncio.create_task(self._forward(reader, to_upstream, []))
                # The end of the server's side ends the connection; the client may have ended its own side before.
                await answers
                requests.cancel()
            finally:
                to_upstream.close()
        writer.close()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, paces: list[Pace]) -> None:
        """Forward one direction; each piece arrives half a round trip after it was sent."""
        transit: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(IN_TRANSIT)

        async def arrive() -> None:
            while (item := await transit.get())[1]:
                if (delay := item[0] - time.monotonic()) > 0:
                    await asyncio.sleep(delay)
                target.write(item[1])
                await target.drain()
            if target.can_write_eof():
                target.write_eof()

        arriving = asyncio.create_task(arrive())
        with contextlib.suppress(OSError):
            while True:
                piece = await source.read(PIECE)
                for pace in paces:
                    await pace.wait(len(piece))
                if arriving.done():
                    break
                await transit.put((time.monotonic() + self._link.round_trip / 2, piece))
                if not piece:
                    break
        with contextlib.suppress(OSError):
            await arriving


@contextlib.contextmanager
def shaped(address: str, link: Link) -> Iterator[str]:
    """Start a shaper in a process of its own; yield the address HOST:PORT to connect to."""
    rates = {"--connection": link.connection, "--total": link.total}
    options = [word for name, rate in rates.items() if rate for word in (name, str(rate / 1e6))]
    command = [sys.executable, "-m", "benchmarks.shaper", address, "--round-trip", str(link.round_trip * 1000)]
    with subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise SystemExit("the shaper did not start")
            yield line.strip()
        finally:
            process.terminate()


async def _main(address: str, link: Link) -> None:
    host, _, port = address.rpartition(":")
    server = await Shaper(host, int(port), link).serve()
    name, bound = server.sockets[0].getsockname()[:2]
    print(f"{name}:{bound}", flush=True)
    await server.serve_forever()


def main() -> None:
    """Run the proxy until it is terminated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="HOST:PORT", help="the server")
    parser.add_argument("--connection", type=float, help="MB/s of one connection")
    parser.add_argument("--total", type=float, help="MB/s of all connections")
    parser.add_argument("--round-trip", type=float, default=0.0, help="milliseconds")
    options = parser.parse_args()
    mega = 1_000_000
    link = Link(
        options.connection and options.connection * mega,
        options.total and options.total * mega,
        options.round_trip / 1000,
    )
    asyncio.run(_main(options.address, link))


if __name__ == "__main__":
    main()
