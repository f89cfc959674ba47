"""What all tasks of a stage need, such as the schema: it lies in storage once, and a task carries where it is.

A schema may have thousands of columns and categories. If it were a part of every task, the scheduler of a cluster would
send the same megabytes once for each shard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, Generic, Protocol, Self, TypeVar
from weakref import WeakValueDictionary

from ...storage.errors import ConflictError
from ...storage.format.manifest import WORK
from ...storage.places.json_files import content_hash, parse_json, to_json
from ...storage.places.locate import locate
from ...storage.places.place import Place

PLANS = "plans"
KEPT = 2  # plans that a worker keeps: that of the current stage, and perhaps of another conversion


class Plan(Protocol):
    """What tasks share. It must be possible to store it as JSON."""

    def to_json(self) -> Mapping[str, Any]: ...
    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self: ...


AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclass(frozen=True)
class StoredPlan(Generic[AnyPlan]):
    """Where a plan of this `kind` is stored: with the dataset at `root`, under its SHA-256."""

    root: str
    kind: type[AnyPlan]
    digest: str

    @property
    def path(self) -> Place:
        return locate(self.root) / WORK / PLANS / f"{self.digest}.json"

    def load(self) -> AnyPlan:
        """The plan, which is read once per process, or not at all in the process that stored it.

        Raises ConflictError if it does not exist any more, or is not what was stored.
        """
        plan: AnyPlan | None = _here.get(self)
        if plan is None:
            with _lock:  # threads that start together read it once
                plan = _read(self)
        return plan


_here: WeakValueDictionary[StoredPlan[Any], Any] = WeakValueDictionary()
"""The plans that this process has stored and still uses."""
_lock = Lock()


@lru_cache(KEPT)
def _read(stored: StoredPlan[AnyPlan]) -> AnyPlan:
    try:
        data = stored.path.read_bytes()
    except FileNotFoundError:
        data = b""
    if content_hash(data) != stored.digest:
        raise ConflictError(
            f"{stored.path} was removed or changed, possibly by another process that converts the same sources; run "
            "the command again"
        )
    return stored.kind.from_json(parse_json(data, str(stored.path)))


def store_plan(root: Place, plan: AnyPlan) -> StoredPlan[AnyPlan]:
    """Store a plan for the tasks that write to `root`. It must exist before they do.

    The name depends only on the content: a resumed conversion writes the same file, and tasks of another plan never
    find this one. It is not synchronized, since no task survives a crash of the machine.
    """
    data = to_json(plan.to_json())
    stored = StoredPlan(str(root), type(plan), content_hash(data))
    stored.path.write(data, durable=False)
    _here.setdefault(stored, plan)
    return stored
