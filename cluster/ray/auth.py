"""Ray's token: every Ray server that we start or reach asks for it, on loopback too.

Whoever reaches a Ray server without one may run code there. Ray would make the file readable by all.
"""

import os
import secrets
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_path() -> Path:
    """Where Ray looks for the token, if it is not in the environment itself."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def make_token() -> None:
    """See to it that there is a token, for its owner's eyes alone."""
    path = token_path()
    if TOKEN in os.environ:
        return
    if path.exists():
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode & 0o700)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another command was faster
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def use_token() -> None:
    """Have this process, and those that it starts, show the token if there is one, unless RAY_AUTH_MODE says other.

    Ray reads that when it is loaded, so this comes before.
    """
    if TOKEN in os.environ or token_path().exists():
        os.environ.setdefault(MODE, "token")


def asks_for_token() -> bool:
    """Whether the Ray cluster that is connected lets in only those who show the token."""
    return os.environ.get(MODE, "").lower() == "token"
