"""Loopback addresses and free ports. Imports no framework, because those take seconds to load."""

import socket
from ipaddress import ip_address

ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""If this variable is 0, Ray does not replace loopback with the machine's own address."""
LOOPBACK = "127.0.0.1"


def on_loopback(host: str) -> bool:
    """Whether a host, given by its address or name, is only reachable from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(wanted: int) -> int:
    """`wanted` if it is free on loopback, otherwise another free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0
