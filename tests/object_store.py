"""A real S3 server on loopback or on a test host: SeaweedFS, which verifies signatures and supports conditional
writes."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import obstore
from foldstream.storage.places.requests import open_store
from obstore.store import S3Store

KEY, SECRET, BUCKET = "tester", "a-secret-of-the-tests", "bucket"
WAIT_SECONDS = 60.0


@dataclass
class ObjectServer:
    """A running server with one bucket. `environment` holds the variables that clients need to reach it."""

    environment: dict[str, str]
    process: subprocess.Popen[bytes]

    @property
    def port(self) -> int:
        return int(self.environment["AWS_ENDPOINT_URL"].rpartition(":")[2])

    @property
    def store(self) -> S3Store:
        return S3Store.from_url(f"s3://{BUCKET}")

    def upload(self, folder: Path, name: str) -> str:
        """Upload all files of a folder under the prefix `name`. Returns its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                obstore.put(self.store, f"{name}/{path.relative_to(folder)}", path.read_bytes())
        return f"s3://{BUCKET}/{name}"

    def stop(self) -> None:
        self.process.kill()  # it ignores SIGTERM
        self.process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def object_server(address: str = "127.0.0.1", host: Sequence[str] = ()) -> Iterator[ObjectServer]:
    """Run a server for the duration of the block. Its address and keys are set in the environment of this process.

    `host` is the command prefix that runs a command on the host with this address.
    """
    with tempfile.TemporaryDirectory(prefix="object-server-") as folder:
        config = Path(folder, "identities.json")
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        identity = {"name": KEY, "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
        config.write_text(json.dumps({"identities": [identity]}))
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
                 "s3.port", "s3.port.grpc")  # fmt: skip
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        options = [f"-{name}={port}" for name, port in ports.items()]
        options += [f"-ip={address}", f"-ip.bind={address}", f"-dir={folder}", f"-s3.config={config}", "-s3"]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=50", "-master.volumeSizeLimitMB=64"]
        command = [*host, str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "server", *options]
        log = open(Path(folder, "log"), "wb")  # noqa: SIM115 - closed below, after the server
        server = ObjectServer(
            {
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_ENDPOINT_URL": f"http://{address}:{ports['s3.port']}",
                "AWS_REGION": "us-east-1",
                "AWS_ALLOW_HTTP": "true",
            },
            subprocess.Popen(command, stdout=log, stderr=log, cwd=folder),
        )
        before = dict(os.environ)
        os.environ.update(server.environment)
        try:
            _make_bucket(server, Path(folder, "log"))
            yield server
        finally:
            server.stop()
            log.close()
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def read_over(link: AbstractContextManager[str]) -> Iterator[str]:
    """Have this process reach the server over a link to it, for the duration of the block. Returns its address."""
    with link as address, patch.dict(os.environ, AWS_ENDPOINT_URL=address):
        open_store.cache_clear()
        yield address
    open_store.cache_clear()


def _make_bucket(server: ObjectServer, log: Path) -> None:
    """Create the bucket by writing to it until a write succeeds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            obstore.put(server.store, "ready", b"")
            return
        except obstore.exceptions.BaseError:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:]) from None
            time.sleep(0.2)
