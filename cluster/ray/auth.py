"""Ray's token: every Ray server that we start or connect to requires it, even on loopback.

Anyone who can reach a Ray server without a token can run code on it. Ray itself would make the token file
world-readable.
"""

import os
import secrets
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def token_path() -> Path:
    """Path of the token file, which Ray reads unless the environment contains the token itself."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def make_token() -> None:
    """Create the token file unless a token exists, and make it readable by its owner only."""
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
    except FileExistsError:  # another command has just created it
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))


def use_token() -> None:
    """Make this process and its children send the token if one exists, unless RAY_AUTH_MODE is set otherwise.

    Call it before Ray is imported, which reads that variable.
    """
    if TOKEN in os.environ or token_path().exists():
        os.environ.setdefault(MODE, "token")


def asks_for_token() -> bool:
    """Whether the connected Ray cluster accepts only clients that send the token."""
    return os.environ.get(MODE, "").lower() == "token"
