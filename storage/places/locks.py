"""Locks between processes: a file that is locked as long as it is open. The kernel releases it with the process."""

import fcntl
import os
from pathlib import Path


def lock_file(path: str | Path, wait: bool = True, shared: bool = False) -> int:
    """Lock a file, which is created if necessary, and return its descriptor. Closing it releases the lock.

    The file is opened for writing, because NFS locks only such files on its server. If another process removes or
    replaces the file meanwhile, the new one is locked.

    Raises:
        BlockingIOError: Another process has the lock, and `wait` is false.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, how)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_lock(path: str | Path, descriptor: int) -> None:
    """Release a lock and remove its file, unless another process has replaced it."""
    try:
        if _is_at(path, descriptor):
            os.unlink(path)
    finally:
        os.close(descriptor)


def _is_at(path: str | Path, descriptor: int) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
