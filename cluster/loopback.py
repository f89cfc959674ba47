"""Addresses that only this machine reaches, and free ports there. It knows no framework: those take seconds to load."""

import socket
from ipaddress import ip_address

ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Where this variable is 0, Ray does not take the machine's own address in the place of loopback."""
LOOPBACK = "127.0.0.1"


def on_loopback(host: str) -> bool:
    """Whether only this machine reaches a host, by its address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(wanted: int) -> int:
    """`wanted` if nobody listens there on loopback, else a port that is free now."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return 0
