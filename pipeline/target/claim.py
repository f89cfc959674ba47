"""Who may write to a place, what is there already, and what of it has to go."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ...storage.dataset import open_dataset
from ...storage.errors import ConflictError
from ...storage.format import MANIFEST, WORK, Layout, Schema
from ...storage.places.json_files import read_json, same_json
from ...storage.places.place import Place
from .receipts import RECEIPTS

PLAN = "plan.json"


FAULTS = "faults"


class Plan(Protocol):
    """What is written to a target. `left_out` are faulty rows or files of the sources that are not; `source_bytes` has
    all of them together."""

    @property
    def layout(self) -> Layout: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def request(self) -> dict[str, Any]: ...
    @property
    def left_out(self) -> int: ...
    @property
    def source_bytes(self) -> int: ...


def is_converted(root: Place, fingerprint: dict[str, Any], overwrite: bool = False) -> bool:
    """Whether `root` holds the committed result of this request.

    Raises ConflictError where it holds the result of another one (unless `overwrite`) or what is not Foldstream's.
    """
    if (root / MANIFEST).exists():
        if overwrite or same_json(open_dataset(root).request, fingerprint):
            return not overwrite
        raise ConflictError(f"{root} holds another dataset; choose another name, or replace it with --overwrite")
    names = root.names()
    if root.is_file() or (names and WORK not in names):
        raise ConflictError(f"{root} holds something that is not a dataset; choose another name")
    return False


@contextmanager
def lock_target(root: Place) -> Iterator[None]:
    """Let one converter at a time work at `root`. The system frees the lock when its holder dies.

    In an object store there is no lock that would be freed: several converters of one request do the same work, and
    the plan and the manifest are created by exactly one of them. Without a plan at the end nothing has been written:
    the folders that were made go, and what was there stays.
    """
    made = not root.exists()
    with (root / WORK).lock(f"{root} is being converted by another process; wait for it to end"):
        try:
            yield
        finally:
            if not (root / WORK / PLAN).exists():
                (root / WORK).remove_tree()
                if made:
                    root.remove_if_empty()


def load_plan(root: Place, fingerprint: dict[str, Any], overwrite: bool) -> Any:
    """The plan, as JSON, of an attempt at this request that was cut short; None if it did not come so far or is to be
    replaced. Raises ConflictError where the attempt was at another request."""
    path = root / WORK / PLAN
    if not path.exists():
        return None
    plan = read_json(path)
    if same_json(plan["request"], fingerprint):
        return plan
    if overwrite:
        path.remove()
        (root / WORK / RECEIPTS).remove_tree()
        (root / WORK / SPILLED).remove_tree()
        return None
    raise ConflictError(
        f"{root} holds an unfinished conversion with other options or sources; "
        "repeat that command, choose another name, or start anew with --overwrite"
    )


def clear_target(root: Place) -> None:
    """Remove an earlier dataset, its manifest first: from then on it is none, should the removal be cut short."""
    (root / MANIFEST).remove()
    root.remove_contents(keep=WORK)


SPILLED = "spilled"
