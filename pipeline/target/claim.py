"""Who may write to a place, what is there already, and what of it has to go."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ...storage.dataset import open_dataset
from ...storage.errors import ConflictError
from ...storage.files import exclusive, names_in, read_json, remove_file, remove_tree, same_json
from ...storage.format import MANIFEST, WORK, Layout, Schema
from ...storage.object_path import AnyPath, ObjectPath
from .receipts import RECEIPTS

SPEC = "plan.json"


SKIPPED = "faults"


class DatasetSpec(Protocol):
    """What is written to a target. `skipped` are faulty rows or files of the sources that are not; `source_bytes` has
    all of them together."""

    @property
    def layout(self) -> Layout: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def request(self) -> dict[str, Any]: ...
    @property
    def skipped(self) -> int: ...
    @property
    def source_bytes(self) -> int: ...


def is_converted(root: AnyPath, fingerprint: dict[str, Any], overwrite: bool = False) -> bool:
    """Whether `root` holds the committed result of this request.

    Raises ConflictError where it holds the result of another one (unless `overwrite`) or what is not Foldstream's.
    """
    if (root / MANIFEST).exists():
        if overwrite or same_json(open_dataset(root).request, fingerprint):
            return not overwrite
        raise ConflictError(f"{root} holds another dataset; choose another name, or replace it with --overwrite")
    names = names_in(root)
    if (isinstance(root, Path) and root.is_file()) or (names and WORK not in names):
        raise ConflictError(f"{root} holds something that is not a dataset; choose another name")
    return False


@contextmanager
def lock_target(root: AnyPath) -> Iterator[None]:
    """Let one converter at a time work at `root`. The system frees the lock when its holder dies.

    In an object store there is no lock that would be freed: several converters of one request do the same work, and
    the spec and the manifest are created by exactly one of them. Without a spec at the end nothing has been written:
    the folders that were made go, and what was there stays.
    """
    if isinstance(root, ObjectPath):
        try:
            yield
        finally:
            if not (root / WORK / SPEC).exists():
                remove_tree(root / WORK)
        return
    made = not root.exists()
    with exclusive(root / WORK, f"{root} is being converted by another process; wait for it to end"):
        try:
            yield
        finally:
            if (root / WORK).exists() and not (root / WORK / SPEC).exists():
                remove_tree(root if made else root / WORK)


def load_spec(root: AnyPath, fingerprint: dict[str, Any], overwrite: bool) -> Any:
    """The spec, as JSON, of an attempt at this request that was cut short; None if it did not come so far or is to be
    replaced. Raises ConflictError where the attempt was at another request."""
    path = root / WORK / SPEC
    if not path.exists():
        return None
    spec = read_json(path)
    if same_json(spec["request"], fingerprint):
        return spec
    if overwrite:
        remove_file(path)
        remove_tree(root / WORK / RECEIPTS)
        remove_tree(root / WORK / SPILLED)
        return None
    raise ConflictError(
        f"{root} holds an unfinished conversion with other options or sources; "
        "repeat that command, choose another name, or start anew with --overwrite"
    )


def clear_target(root: AnyPath) -> None:
    """Remove an earlier dataset, its manifest first: from then on it is none, should the removal be cut short."""
    remove_file(root / MANIFEST)
    if isinstance(root, ObjectPath):
        root.remove_all([name for name in root.list() if not name.startswith(f"{WORK}/")])
        return
    for path in root.iterdir():
        if path.is_dir() and path.name != WORK:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


SPILLED = "spilled"
