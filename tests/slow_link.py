"""A link in front of a server of objects: it delays each request, bounds the rate of all answers together, counts, and
fails on demand.

python -m tests.slow_link UPSTREAM_PORT LATENCY_SECONDS BYTES_PER_SECOND [keep] prints its port. `GET /-count` answers
with the requests and bytes since it was last asked, as JSON, and `GET /-faults?failed=0.01&slow=0.01&away=3` sets
`Faults` for the GETs from then on. A rate of 0 is no bound. With `keep`, what the server has answered to a GET is kept
in memory and answered again without it, and the link goes before other processes: a network takes no time of a
processor from those who use it. For objects that do not change, and without faults.
"""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

PIECE = 128 << 10
HEAD_END = b"\r\n\r\n"
REFUSALS = {"500": b"500 Internal Server Error", "503": b"503 Slow Down", "429": b"429 Too Many Requests"}
BROKEN = ("dropped", "cut")  # before the answer, and in the middle of it


@dataclass
class Faults:
    """What goes wrong: a share of all GETs `failed`, another is `slow` by so many `seconds`, drawn from a `seed`, and
    `after` so many GETs all connections are broken and refused for `away` seconds."""

    failed: float = 0.0
    slow: float = 0.0
    seconds: float = 5.0
    away: float = 0.0
    after: float = 0
    seed: float = 0

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)

    def draw(self) -> str:
        """What happens to the next GET; nothing if empty."""
        drawn = self._chance.random()
        if drawn < self.failed:
            return self._chance.choice((*REFUSALS, *BROKEN))
        return "slow" if drawn < self.failed + self.slow else ""


@dataclass
class Link:
    """The state that all connections share."""

    port: int
    latency: float
    rate: float
    free: float = 0.0
    """When the link will have sent what it has taken so far."""
    count: dict[str, int] = field(default_factory=lambda: {"GET": 0, "HEAD": 0, "bytes": 0, "x": 0})
    """Requests by method, those for shards of x, the bytes of all answers, and faults."""
    faults: Faults = field(default_factory=Faults)
    kept: dict[tuple[bytes, bytes], tuple[bytes, bytes]] | None = None
    """What has been answered to GETs, head and body, by the request's first line and its range; None keeps nothing."""
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    away: bool = False

    async def listen(self, port: int) -> int:
        """Accept connections at a port, or at a free one if it is 0. Returns the port."""
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", port, limit=1 << 20)
        self.own = int(self.server.sockets[0].getsockname()[1])
        return self.own

    async def leave(self, seconds: float) -> None:
        """Break and refuse all connections for a while."""
        self.away = True  # also for connections that are accepted already, and not served yet
        self.server.close()
        for writer in self.connections:
            writer.transport.abort()
        await asyncio.sleep(seconds)
        self.away = False
        while True:
            with suppress(OSError):  # a client that tries a free port over and over has connected to itself
                await self.listen(self.own)
                return
            await asyncio.sleep(0.1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the requests of one connection, one after the other."""
        if self.away:
            writer.transport.abort()
            return
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(HEAD_END)
                if head.startswith(b"GET /-"):
                    await self._control(head.split()[1].decode(), writer)
                    continue
                body = await reader.readexactly(length_in(head))
                method = head.partition(b" ")[0].decode()
                self.count[method] = self.count.get(method, 0) + 1
                self.count["x"] += b"/x/c/" in head
                fault = self._next_fault() if method == "GET" else ""
                if fault in REFUSALS:
                    writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % REFUSALS[fault])
                    continue
                if fault == "dropped":
                    break
                if fault == "slow":
                    await asyncio.sleep(self.faults.seconds)
                upstream = upstream or await asyncio.open_connection("127.0.0.1", self.port)
                await asyncio.sleep(self.latency)
                if self.kept is not None and method == "GET":
                    answer, whole = await self._from_memory(self.kept, head, *upstream)
                    writer.write(answer)
                    for start in range(0, len(whole), PIECE):
                        await self._carry(whole[start : start + PIECE], writer)
                    continue
                upstream[1].write(head + body)
                answer = await upstream[0].readuntil(HEAD_END)
                writer.write(answer)
                length = 0 if method == "HEAD" else length_in(answer)
                await self._pass_on(upstream[0], writer, length // 2 if fault == "cut" else length)
                if fault == "cut":
                    break
        self.connections.remove(writer)
        for one in (writer, *([upstream[1]] if upstream else [])):
            one.close()

    def _next_fault(self) -> str:
        """What happens to the next GET; if it is time to leave, nothing does afterwards."""
        self.faults.after -= 1
        if self.faults.away and self.faults.after < 0:
            self.leaving = asyncio.create_task(self.leave(self.faults.away))
            self.faults.away = 0.0
            return "dropped"
        if fault := self.faults.draw():
            self.count[fault] = self.count.get(fault, 0) + 1
        return fault

    async def _from_memory(
        self,
        kept: dict[tuple[bytes, bytes], tuple[bytes, bytes]],
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> tuple[bytes, bytes]:
        """The head and the body of the answer to a GET, which the server is asked for only once if it has it."""
        key = head.partition(b"\r\n")[0], header_in(head, b"range")
        if key in kept:
            return kept[key]
        writer.write(head)
        answer = await reader.readuntil(HEAD_END)
        found = answer, await reader.readexactly(length_in(answer))
        if answer.split(b" ", 2)[1] in (b"200", b"206"):
            kept[key] = found
        return found

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int) -> None:
        while length:
            piece = await reader.read(min(PIECE, length))
            length -= len(piece)
            await self._carry(piece, writer)

    async def _carry(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        """Send a part of an answer at the rate of the link."""
        loop = asyncio.get_running_loop()
        self.count["bytes"] += len(piece)
        if self.rate:
            self.free = max(loop.time(), self.free) + len(piece) / self.rate
            if (ahead := self.free - loop.time()) > 0.001:
                await asyncio.sleep(ahead)
        writer.write(piece)
        await writer.drain()

    async def _control(self, target: str, writer: asyncio.StreamWriter) -> None:
        """Answer a request to the link itself."""
        path, query = urlsplit(target).path, urlsplit(target).query
        if path == "/-faults":
            self.faults = Faults(**{name: float(value) for name, value in parse_qsl(query)})
        told = json.dumps(self.count).encode()
        self.count.update(dict.fromkeys(self.count, 0))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(told) + told)
        await writer.drain()


def length_in(head: bytes) -> int:
    """The length of the body that follows a head."""
    return int(header_in(head, b"content-length") or 0)


def header_in(head: bytes, name: bytes) -> bytes:
    """The value of a header, in small letters; empty without it."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(name + b":"):
            return line.partition(b":")[2].strip()
    return b""


async def run(link: Link) -> None:
    print(await link.listen(0), flush=True)
    await asyncio.Event().wait()


@contextmanager
def slow_link(port: int, latency: float, rate: float, keep: bool = False) -> Iterator[str]:
    """The address of a link in front of a server on this machine, for the duration of the block."""
    command = [sys.executable, "-m", "tests.slow_link", str(port), str(latency), str(rate), *(["keep"] if keep else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def requests_since(address: str) -> dict[str, Any]:
    """The requests, by method, and the bytes that a link has passed on since it was last asked."""
    return _ask(f"{address}/-count")


def set_faults(address: str, faults: Faults) -> None:
    """Set what goes wrong from now on. The count begins anew."""
    _ask(f"{address}/-faults?{urlencode(asdict(faults))}")


def _ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


if __name__ == "__main__":
    port, latency, rate, *keep = sys.argv[1:]
    if keep:
        with suppress(PermissionError):  # only root may
            os.nice(-10)
    asyncio.run(run(Link(int(port), float(latency), float(rate), kept={} if keep else None)))
