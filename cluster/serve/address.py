"""Where the service listens, and who may ask there. Decided before the models are loaded, which takes a while."""

import secrets
from socket import socket

from tornado.netutil import bind_sockets

from ...storage.errors import UsageError
from ..loopback import on_loopback

TOKEN_BYTES = 32


def listen(host: str, port: int) -> list[socket]:
    """Sockets that listen on an address; port 0 is a free one. Raises UsageError if that is not possible."""
    try:
        return bind_sockets(port, host)
    except OSError as error:
        raise UsageError(
            f"--host {host}, --port {port}: {error.strerror}; choose others, port 0 for a free one"
        ) from None


def address_of(sockets: list[socket]) -> str:
    """The address that clients use."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def choose_token(host: str, token: str | None) -> str | None:
    """The token that clients must send: the given one, a new one on an address that other machines can reach, or
    none."""
    return token or (None if on_loopback(host) else secrets.token_urlsafe(TOKEN_BYTES))
