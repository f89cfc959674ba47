"""The place that a conversion writes to: who may, what is there already, tasks that write shards, and the commit."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from time import perf_counter
from typing import Any, TypeVar

from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...storage.tasks import CONVERSION, Executor, Progress, Task
from .claim import Plan
from .receipts import receipt_path

Result = TypeVar("Result")


def carry_out(
    plan: Plan,
    root: Place,
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

    def __init__(self, plan: Plan, root: Place, stage: str, done: Iterable[int]) -> None:
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
