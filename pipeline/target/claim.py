"""The claim on a target: who may write to it, what it contains already, and what of that is removed."""

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

SPEC = "plan.json"  # the name that earlier versions gave it
SKIPPED = "faults"  # folder of the lists of skipped rows or files


class DatasetSpec(Protocol):
    """What a conversion writes to a target. `skipped` is the number of invalid rows or files that it omits, and
    `source_bytes` the total size of the sources."""

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
    """Whether `root` contains the committed result of this request.

    Raises ConflictError if it contains the result of another request (unless `overwrite`) or something else.
    """
    if (root / MANIFEST).exists():
        if overwrite or same_json(open_dataset(root).request, fingerprint):
            return not overwrite
        raise ConflictError(f"{root} contains another dataset; choose another name, or replace it with --overwrite")
    names = names_in(root)
    if (isinstance(root, Path) and root.is_file()) or (names and WORK not in names):
        raise ConflictError(f"{root} contains something that is not a dataset; choose another name")
    return False


@contextmanager
def lock_target(root: AnyPath) -> Iterator[None]:
    """Let one converter at a time write to `root`. The operating system releases the lock when its holder dies.

    An object store has no such lock: several converters of one request do the same work, and exactly one of them
    creates the spec and the manifest. If there is no spec at the end, nothing was written: the new folders are
    removed, and existing data stay.
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
    """The spec, as JSON, of an interrupted conversion of this request; None if there is none or it is to be replaced.

    Raises ConflictError if the interrupted conversion was of another request.
    """
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
        f"{root} contains an unfinished conversion with other options or sources; "
        "repeat that command, choose another name, or start over with --overwrite"
    )


def clear_target(root: AnyPath) -> None:
    """Remove an earlier dataset, its manifest first: then an interrupted removal leaves no readable dataset behind."""
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
