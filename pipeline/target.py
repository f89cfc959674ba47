"""The place that a conversion writes to: who may, what is there already, tasks that write shards, and the commit."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np

from ..storage.dataset import open_dataset
from ..storage.errors import ConflictError
from ..storage.files import (
    clean_temporaries,
    exclusive,
    names_in,
    read_json,
    remove_file,
    remove_tree,
    same_json,
    write_atomic,
)
from ..storage.format import LEFT_OUT, MANIFEST, WORK, Layout, Manifest, Schema, ShardEntry, Statistics
from ..storage.object_path import AnyPath, ObjectPath
from ..storage.tasks import CONVERSION, Executor, Progress, Task
from ..storage.writer import commit, write_block_table
from .moments import Moments, merge_moments
from .shuffle import SPILLED
from .write import RECEIPTS, receipt_path

Result = TypeVar("Result")

PLAN = "plan.json"
FAULTS = "faults"
FAULT_HEADER = b"file,line,column,reason\n"


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
    the plan and the manifest are created by exactly one of them. Without a plan at the end nothing has been written:
    the folders that were made go, and what was there stays.
    """
    if isinstance(root, ObjectPath):
        try:
            yield
        finally:
            if not (root / WORK / PLAN).exists():
                remove_tree(root / WORK)
        return
    made = not root.exists()
    with exclusive(root / WORK, f"{root} is being converted by another process; wait for it to end"):
        try:
            yield
        finally:
            if (root / WORK).exists() and not (root / WORK / PLAN).exists():
                remove_tree(root if made else root / WORK)


def load_plan(root: AnyPath, fingerprint: dict[str, Any], overwrite: bool) -> Any:
    """The plan, as JSON, of an attempt at this request that was cut short; None if it did not come so far or is to be
    replaced. Raises ConflictError where the attempt was at another request."""
    path = root / WORK / PLAN
    if not path.exists():
        return None
    plan = read_json(path)
    if same_json(plan["request"], fingerprint):
        return plan
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


def carry_out(
    plan: Plan,
    root: AnyPath,
    function: Callable[[Task], Result | None],
    make: Callable[[int], Task],
    shards: Sequence[int],
    stage: str,
    executor: Executor,
    progress: Progress,
    to_first: bool = True,
) -> list[Result]:
    """One task a shard, with progress in rows. Returns what kept shards from being written.

    With `to_first`, no more tasks are given out once something has. None is left running at the end: none could write
    over what a better plan writes.
    """
    hindrances: list[Result] = []
    given: Iterable[int] = takewhile(lambda _: not (to_first and hindrances), shards)
    account = Account(plan, root, stage, set(range(plan.layout.shards)) - set(shards))
    started, before = perf_counter(), account.rows
    progress(stage, before, plan.layout.rows, "rows")
    executor.tell(CONVERSION, account.facts())
    for position, hindrance in executor.map(function, (make(shard) for shard in given)):
        if hindrance is not None:
            hindrances.append(hindrance)
            continue
        account.add(shards[position])
        executor.tell(CONVERSION, account.facts())
        done = account.rows
        rate = (done - before) / (perf_counter() - started)
        megabytes = rate * plan.schema.arrays()[0].row_bytes / 1e6
        progress(stage, done, plan.layout.rows, f"rows, {rate:,.0f} rows/s, {megabytes:,.0f} MB/s")
    return hindrances


class Account:
    """How far a stage is, of which some shards are `done` already."""

    def __init__(self, plan: Plan, root: AnyPath, stage: str, done: Iterable[int]) -> None:
        self.plan, self.root, self.stage = plan, root, stage
        self.source_bytes = plan.source_bytes  # a sum over all files, once
        self.row_bytes = sum(spec.row_bytes for spec in plan.schema.arrays())
        earlier = list(done)
        self.shards = len(earlier)
        self.rows = sum(stop - start for start, stop in map(plan.layout.shard_range, earlier))
        self.written = self.decoded = 0

    def add(self, shard: int) -> None:
        """A shard is done now."""
        start, stop = self.plan.layout.shard_range(shard)
        self.shards += 1
        self.rows += stop - start
        with suppress(FileNotFoundError):  # a stage that does not write shards yet
            self.written += sum(read_json(receipt_path(self.root, shard))["entry"]["lengths"].values())
            self.decoded += (stop - start) * self.row_bytes

    def facts(self) -> dict[str, Any]:
        """For those who look: `bytes_read` is the share of the sources that the rows are; `bytes_written` are those of
        the shards that this attempt has written, which take `bytes_decoded` in memory."""
        layout = self.plan.layout
        return {
            "place": str(self.root),
            "stage": self.stage,
            "rows": layout.rows,
            "rows_done": self.rows,
            "shards": layout.shards,
            "shards_done": self.shards,
            "bytes_read": self.source_bytes * self.rows // layout.rows,
            "bytes_decoded": self.decoded,
            "bytes_written": self.written,
            "left_out": self.plan.left_out,
        }


def attributes(plan: Plan) -> dict[str, Any]:
    """What plain Zarr readers see on the group."""
    schema = plan.schema
    return {"foldstream": {"labels": list(schema.labels), "task": schema.task, "classes": list(schema.classes)}}


def commit_plan(plan: Plan, root: AnyPath) -> None:
    """Gather the receipts and make the dataset exist."""
    if isinstance(root, Path):
        clean_temporaries(root)  # of workers that were killed while others went on
    receipts = [read_json(receipt_path(root, shard)) for shard in range(plan.layout.shards)]
    checksums: dict[str, list[int]] = {spec.name: [] for spec in plan.schema.arrays()}
    for receipt in receipts:
        for name, values in receipt["checksums"].items():
            checksums[name] += values
    totals: Counter[int] = Counter()
    if plan.schema.classes:
        counts = np.concatenate([np.asarray(receipt["class_counts"], np.uint32) for receipt in receipts])
        write_block_table(root, "class_counts", counts)
        totals.update(dict(enumerate(counts.sum(axis=0, dtype=np.int64).tolist())))
    details = {
        "schema": asdict(plan.schema),
        "statistics": asdict(merge_statistics(plan, receipts)),
        "request": plan.request,
        "class_counts": [totals[code] for code in range(len(plan.schema.classes))],
        "left_out": plan.left_out,
    }
    commit_faults(root)
    shards = tuple(ShardEntry(**receipt["entry"]) for receipt in receipts)
    commit(root, Manifest("dataset", plan.layout, plan.schema.arrays(), shards, details), checksums)


def merge_statistics(plan: Plan, receipts: Sequence[dict[str, Any]]) -> Statistics:
    """The statistics of all rows from those of the shards, in their order."""
    schema, channels = plan.schema, plan.schema.sample_shape[0]
    merged = merge_moments([Moments.from_json(receipt["moments"]) for receipt in receipts])
    of_labels = [Moments.from_json(receipt["y_moments"]) for receipt in receipts if receipt["y_moments"]]
    y = merge_moments(of_labels) if of_labels else None
    missing = np.sum([receipt["missing"] for receipt in receipts], axis=0, dtype=np.int64)
    missing = np.concatenate([missing, np.zeros(len(schema.indicators), np.int64)]).reshape(channels, -1).sum(axis=1)
    return Statistics(
        mean=tuple(merged.mean.tolist()),
        std=tuple(merged.std()),
        minimum=tuple(merged.minimum.tolist()),
        maximum=tuple(merged.maximum.tolist()),
        missing=tuple(missing.tolist()),
        y_mean=tuple(y.mean.tolist()) if y else (),
        y_std=tuple(y.std()) if y else (),
    )


def commit_faults(root: AnyPath) -> None:
    """Gather the lists of faulty rows in one beside the arrays, if there are any."""
    folder = root / WORK / FAULTS
    listed = [(folder / name).read_bytes() for name in names_in(folder) if name.endswith(".csv")]
    if listed:
        write_atomic(root / LEFT_OUT, FAULT_HEADER + b"".join(listed))
