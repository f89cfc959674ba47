"""Simulated hosts on this machine: network namespaces on a switch, which share nothing but the network between them.

Requires root and `ip`. Each host has its own loopback and the address 10.77.0.N; this machine has 10.77.0.254.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NET = "10.77.0"
SWITCH, UPLINK = "fs-switch", "fs-uplink"


def why_not() -> str:
    """The reason why simulated hosts cannot run on this machine; empty if they can."""
    if os.geteuid():
        return "simulated hosts require root"
    if not shutil.which("ip"):
        return "'ip' is not installed (Debian package: iproute2)"
    if subprocess.run(["ip", "netns", "add", "fs-probe"], capture_output=True).returncode:
        return "this machine does not allow network namespaces"
    subprocess.run(["ip", "netns", "delete", "fs-probe"], check=True)
    return ""


@dataclass
class Host:
    """A simulated host, identified by its number."""

    number: int
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"fs-host-{self.number}"

    @property
    def address(self) -> str:
        return f"{NET}.{self.number}"

    @property
    def shell(self) -> list[str]:
        """The prefix that runs a command on the host."""
        return ["ip", "netns", "exec", self.name]

    def start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a command on the host."""
        with open(log, "ab") as out:
            process = subprocess.Popen([*self.shell, *command], env=self.environment, stdout=out, stderr=out)
        self.started.append(process)
        return process

    def run(self, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the host and wait for it."""
        given = self.environment | environment
        return subprocess.run([*self.shell, *command], env=given, capture_output=True, text=True, timeout=900)

    def kill(self) -> None:
        """Send SIGKILL to every process on the host, as if its power was cut."""
        while pids := subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            for process in self.started:
                process.wait()
            self.started.clear()

    def set_link(self, up: bool) -> None:
        """Connect or disconnect the network cable."""
        _ip("-n", SWITCH, "link", "set", f"port-{self.number}", "up" if up else "down")

    @contextmanager
    def slowed(self, rate: str) -> Iterator[None]:
        """Limit the bandwidth of the cable in both directions to a rate such as `20mbit`."""
        shape = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        self._queue("replace", *shape)
        try:
            yield
        finally:
            self._queue("delete", "root")

    def _queue(self, action: str, *how: str) -> None:
        for space, device in ((SWITCH, f"port-{self.number}"), (self.name, "cable")):
            subprocess.run(["ip", "netns", "exec", space, "tc", "qdisc", action, "dev", device, *how], check=True)


@contextmanager
def hosts(count: int, environment: dict[str, str]) -> Iterator[list[Host]]:
    """Create hosts on one switch. On exit, all their processes are killed."""
    every = [Host(number, environment) for number in range(1, count + 1)]
    try:
        _ip("netns", "add", SWITCH)
        _ip("-n", SWITCH, "link", "add", "switch", "type", "bridge")
        _ip("-n", SWITCH, "link", "set", "switch", "up")
        _ip("link", "add", UPLINK, "type", "veth", "peer", "name", "port-0", "netns", SWITCH)
        _plug_in("port-0")
        _ip("address", "add", f"{NET}.254/24", "dev", UPLINK)
        _ip("link", "set", UPLINK, "up")
        for host in every:
            port = f"port-{host.number}"
            _ip("netns", "add", host.name)
            _ip("-n", SWITCH, "link", "add", port, "type", "veth", "peer", "name", "cable", "netns", host.name)
            _plug_in(port)
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            _ip("-n", host.name, "link", "set", "cable", "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield every
    finally:
        for host in every:
            host.kill()
        subprocess.run(["ip", "link", "delete", UPLINK], capture_output=True)
        for space in (SWITCH, *(host.name for host in every)):
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)


def _plug_in(port: str) -> None:
    _ip("-n", SWITCH, "link", "set", port, "master", "switch")
    _ip("-n", SWITCH, "link", "set", port, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
