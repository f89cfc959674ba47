"""Run the tasks that write shards, and report their progress."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from time import perf_counter
from typing import Any, Generic, TypeVar

from ...storage.dataset import Dataset
from ...storage.machine import size_text
from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...storage.tasks import CONVERSION, DONE, Executor, Progress, Task
from .claim import DatasetSpec
from .receipts import receipt_path

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage(Generic[Task, Result]):
    """A stage of a conversion, shown as `name`: `function` runs the task that `make_task` creates for a shard.

    `function` returns None, or the problem that prevented it from writing the shard. `complete` is called with each
    shard that was written.
    """

    name: str
    function: Callable[[Task], Result | None]
    make_task: Callable[[int], Task]
    complete: Callable[[int], None] = lambda shard: None


def run_shard_tasks(
    stage: Stage[Task, Result],
    spec: DatasetSpec,
    root: Place,
    shards: Sequence[int],
    executor: Executor,
    progress: Progress,
    stop_at_first: bool = True,
) -> list[Result]:
    """Run one task per shard, with progress in rows. Returns the problems that prevented shards from being written.

    With `stop_at_first`, no more tasks are submitted after the first problem. All tasks have finished when this
    returns; otherwise a late one could overwrite what a corrected spec writes.
    """
    problems: list[Result] = []
    submitted: Iterable[int] = takewhile(lambda _: not (stop_at_first and problems), shards)
    state = ShardProgress(spec, root, stage.name, set(range(spec.layout.shards)) - set(shards))
    started, before, row_bytes = perf_counter(), state.rows, spec.schema.arrays()[0].row_bytes
    progress(stage.name, before, spec.layout.rows, "rows")
    executor.publish(CONVERSION, state.facts())
    for position, problem in executor.map(stage.function, map(stage.make_task, submitted)):
        if problem is not None:
            problems.append(problem)
            continue
        state.add(shards[position])
        stage.complete(shards[position])
        executor.publish(CONVERSION, state.facts())
        done = state.rows
        rate = (done - before) / (perf_counter() - started)
        progress(stage.name, done, spec.layout.rows, f"rows, {rate:,.0f} rows/s, {size_text(rate * row_bytes)}/s")
    return problems


def publish_done(spec: DatasetSpec, dataset: Dataset, executor: Executor) -> None:
    """Show on the executor's dashboard that a conversion is complete."""
    state = ShardProgress(spec, dataset.place, DONE, range(spec.layout.shards))
    state.written, state.decoded = dataset.stored_bytes, state.rows * state.row_bytes
    executor.publish(CONVERSION, state.facts())


class ShardProgress:
    """The progress of a stage, some of whose shards are already `done`."""

    def __init__(self, spec: DatasetSpec, root: Place, stage: str, done: Iterable[int]) -> None:
        self.spec, self.root, self.stage = spec, root, stage
        self.source_bytes = spec.source_bytes  # a sum over all files, once
        self.row_bytes = sum(array.row_bytes for array in spec.schema.arrays())
        earlier = list(done)
        self.shards = len(earlier)
        self.rows = sum(stop - start for start, stop in map(spec.layout.shard_range, earlier))
        self.written = self.decoded = 0

    def add(self, shard: int) -> None:
        """Count a completed shard."""
        start, stop = self.spec.layout.shard_range(shard)
        self.shards += 1
        self.rows += stop - start
        with suppress(FileNotFoundError):  # the stage does not write shards yet
            self.written += sum(read_json(receipt_path(self.root, shard))["entry"]["lengths"].values())
            self.decoded += (stop - start) * self.row_bytes

    def facts(self) -> dict[str, Any]:
        """The progress for dashboards. `bytes_read` is the share of the source bytes that corresponds to the rows;
        `bytes_written` is the size of the shards that this attempt wrote, which take `bytes_decoded` bytes in
        memory."""
        layout = self.spec.layout
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
            "left_out": self.spec.skipped,
        }
