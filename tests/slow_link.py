"""A link in front of a server of objects: it delays each request, bounds the rate of all answers together, and counts.

python -m tests.slow_link UPSTREAM_PORT LATENCY_SECONDS BYTES_PER_SECOND prints its port. `GET /-count` answers with the
requests and bytes since it was last asked, as JSON. A rate of 0 is no bound.
"""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PIECE = 128 << 10
HEAD_END = b"\r\n\r\n"
COUNT = b"GET /-count "


@dataclass
class Link:
    """The state that all connections share."""

    port: int
    latency: float
    rate: float
    free: float = 0.0
    """When the link will have sent what it has taken so far."""
    count: dict[str, int] = field(default_factory=lambda: {"GET": 0, "HEAD": 0, "bytes": 0})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the requests of one connection, one after the other."""
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(HEAD_END)
                if head.startswith(COUNT):
                    await self._answer_count(writer)
                    continue
                body = await reader.readexactly(length_in(head))
                method = head.partition(b" ")[0].decode()
                self.count[method] = self.count.get(method, 0) + 1
                upstream = upstream or await asyncio.open_connection("127.0.0.1", self.port)
                await asyncio.sleep(self.latency)
                upstream[1].write(head + body)
                answer = await upstream[0].readuntil(HEAD_END)
                writer.write(answer)
                await self._pass_on(upstream[0], writer, 0 if method == "HEAD" else length_in(answer))
        for one in (writer, *([upstream[1]] if upstream else [])):
            one.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
        loop = asyncio.get_running_loop()
        while length:
            piece = await reader.read(min(PIECE, length))
            length -= len(piece)
            self.count["bytes"] += len(piece)
            if self.rate:
                self.free = max(loop.time(), self.free) + len(piece) / self.rate
                if (ahead := self.free - loop.time()) > 0.001:
                    await asyncio.sleep(ahead)
            writer.write(piece)
            await writer.drain()

    async def _answer_count(self, writer: asyncio.StreamWriter) -> None:
        told = json.dumps(self.count).encode()
        self.count.update(dict.fromkeys(self.count, 0))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()


def length_in(head: bytes) -> int:
    """The length of the body that follows a head."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def run(link: Link) -> None:
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def slow_link(port: int, latency: float, rate: float) -> Iterator[str]:
    """The address of a link in front of a server on this machine, for the duration of the block."""
    command = [sys.executable, "-m", "tests.slow_link", str(port), str(latency), str(rate)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def requests_since(address: str) -> dict[str, Any]:
    """The requests, by method, and the bytes that a link has passed on since it was last asked."""
    with urllib.request.urlopen(f"{address}/-count", timeout=30) as answer:
        count: dict[str, Any] = json.load(answer)
        return count


if __name__ == "__main__":
    asyncio.run(run(Link(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))))
