"""`make bench-terabyte`: every decision about a terabyte of which only metadata exist. No data are read.

- Pieces of text are assigned to shards, a manifest of that many shards is written, and every row gets its fold code.
- A shuffle plans its passes, and what is left of them after a kill: how many files it reads, and in how many reads.
- A killed conversion resumes: it reads the receipts of all shards, but no shard.
- Every rank schedules its reads for an epoch in fused mode: each row once, and each window decoded about once.
- The coordinator schedules folds on nodes that fail, on the virtual clock of `simulated_cluster.py`.

python -m tests.benchmarks.simulated_terabyte RESULT.json. It may take a minute and 500 MB.
"""

import json
import resource
import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from foldstream.cluster.runs.schedule import Status
from foldstream.storage.dataset import Dataset
from foldstream.storage.fold_plan import ModelRows, among
from foldstream.storage.format.layout import Layout
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.splits.checks import check_counts
from foldstream.training.splits.folds import kfold
from foldstream.training.splits.split import Split
from foldstream.training.splits.survey import survey
from foldstream.training.stream.order import EpochOrder, Mixing
from foldstream.training.stream.read_schedule import schedule_reads
from rich.console import Console
from rich.markdown import Markdown

from .record import Figures, machine, timed, write_section
from .simulated_cluster import Cluster

SHARDS = 10_000
FOLDS, WORKERS, BATCH, WINDOW = 5, 16, 256, 8
WORKER_MEMORY = 2 << 30
WINDOWS_LOOKED_INTO = 40
NODES, NODES_OF_A_FOLD, FOLDS_TO_RUN, FAILS_EVERY, RUNS = 16, 4, 20, 48.0, 20  # of the schedule; hours, seeds
MOST_SECONDS, MOST_BYTES = 60, 500e6


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in this process."""
    return function(*arguments)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def simulate(shards: int = SHARDS, call: Callable[..., Any] = here) -> Figures:
    """Run the whole simulation for a number of shards. Raises AssertionError if an invariant does not hold."""
    figures, dataset = call(convert, shards)
    return {**figures, **call(train_folds, dataset), **call(run_folds)}


def convert(shards: int) -> tuple[Figures, Dataset]:
    """Convert shards, in a process that does not load what training needs, nor the other way round."""
    from .simulated_conversion import convert_shards

    return convert_shards(shards)


def train_folds(dataset: Dataset) -> Figures:
    """Assign the rows to folds, and schedule the reads of an epoch."""
    figures: Figures = {}
    with timed(figures, "folds"):
        rows = assign_folds(dataset)
    with timed(figures, "order"):
        figures |= read_an_epoch(dataset, rows)
    return figures


@dataclass(frozen=True, eq=False)
class CodedRows:
    """The training rows of a model, as a `RowFilter`.

    `codes(start, stop)` returns the codes of those rows, (stop - start,) uint8. `counts` are the rows of each code in
    each block, (blocks, codes).
    """

    layout: Layout
    codes: Callable[[int, int], np.ndarray]
    counts: np.ndarray
    model: ModelRows

    def kept(self, epoch: int = 0) -> np.ndarray:
        kept: np.ndarray = self.counts[:, list(self.model.train)].sum(axis=1, dtype=np.int64)
        return kept

    def mask(self, blocks: Sequence[int], epoch: int = 0) -> np.ndarray:
        codes = [self.codes(*self.layout.block_range(block)) for block in blocks]
        return among(np.concatenate(codes), self.model.train)


def assign_folds(dataset: Dataset) -> dict[int, CodedRows]:
    """The training rows of each model. The codes of all rows are computed shard by shard."""
    layout, split = dataset.layout, Split(kind="kfold", folds=FOLDS)
    assignment = survey(dataset, split, SerialExecutor(), silent)
    counts = np.empty((layout.blocks, FOLDS), np.uint16)
    for shard in range(layout.shards):
        (codes,) = assignment.codes(dataset, shard)
        blocks = layout.blocks_of(shard)
        counts[blocks] = [np.bincount(codes[rows], minlength=FOLDS) for rows in layout.joined(blocks)]
    check_counts(assignment, {"fold": counts.sum(axis=0)}, BATCH, split)
    assert counts.sum() == layout.rows

    def codes_of(start: int, stop: int) -> np.ndarray:
        return kfold(start, stop, layout.rows, split)

    return {number: CodedRows(layout, codes_of, counts, model) for number, model in enumerate(assignment.models)}


def read_an_epoch(dataset: Dataset, rows: dict[int, CodedRows]) -> Figures:
    """Schedule the reads of every rank in an epoch of all models."""
    from foldstream.training.stream.batch import Rank  # these load torch, which conversion does not need
    from foldstream.training.stream.fused import FusedStream

    mixing = Mixing(BATCH, WORKERS, WINDOW, seed=0)
    ranks = [Rank(rank, WORKERS, WORKER_MEMORY, threads=1) for rank in range(WORKERS)]
    streams = [FusedStream(dataset, rows, mixing, rank) for rank in ranks]  # raises an error if the memory is too small
    orders = {model: streams[0].order(model, epoch=0) for model in rows}
    parts, reads, groups = {model: array("i") for model in rows}, 0, 0
    for stream in streams:
        held: OrderedDict[tuple[int, int], None] = OrderedDict()
        rank = stream.reader.rank
        for group in schedule_reads(orders, rank.rank, WORKERS, dict.fromkeys(rows, 0), stream.group_shape):
            groups += 1
            for load in group.loads:
                part, known = load.part, parts[group.model]
                if known and (known[-4], known[-3], known[-1]) == (part.lane, part.window, part.start):
                    known[-1] = part.stop  # continues where the previous part ends
                else:
                    known.extend((part.lane, part.window, part.start, part.stop))
                if (part.lane, part.window) not in held:
                    reads += 1
                    if len(held) == stream.windows:
                        held.popitem(last=False)
                held[part.lane, part.window] = None
                held.move_to_end((part.lane, part.window))
    for model, order in orders.items():
        check_parts(np.frombuffer(parts.pop(model), np.int32).reshape(-1, 4), order, rows[model])
    windows = sum(map(len, orders[0].window_ends))
    return {
        "steps": sum(order.steps for order in orders.values()),
        "groups": groups,
        "windows": windows,
        "reads_a_window": reads / windows,
        "worker_bytes": max(stream.memory_needed for stream in streams),
    }


def check_parts(parts: np.ndarray, order: EpochOrder, rows: CodedRows) -> None:
    """Assert that the parts of all ranks contain each kept row exactly once, except for a rest of less than a batch.

    `parts` is (parts, 4): lane, window, start and stop.
    """
    parts = parts[np.lexsort(parts.T[[2, 1, 0]])]
    lane, window, start, stop = parts.T
    same = (lane[1:] == lane[:-1]) & (window[1:] == window[:-1])
    assert np.array_equal(start[1:], np.where(same, stop[:-1], 0)), "a row is missing or repeated"
    assert start[0] == 0
    assert (stop - start).sum() == order.batches.rows == rows.kept().sum()
    last = np.flatnonzero(~np.append(same, False))
    for at, ends in enumerate(order.window_ends):
        kept, ours = np.diff(ends, prepend=0), last[lane[last] == at]
        assert (stop[ours] <= kept[window[ours]]).all(), "a part exceeds its window"
    assert lane[-1] < order.lanes
    bounds = [0, *(last + 1).tolist()]
    for at in np.linspace(0, len(bounds) - 2, WINDOWS_LOOKED_INTO).astype(int).tolist():
        of_window = parts[bounds[at] : bounds[at + 1]]
        place, number = of_window[0, :2].tolist()
        mask = rows.mask(order.window_blocks(place, number).tolist())
        mixed = order.mixed_rows(place, number, mask)
        times = np.zeros(len(mask), int)
        for begin, end in of_window[:, 2:].tolist():
            np.add.at(times, mixed[begin:end], 1)
        assert times.sum() == of_window[-1, 3]
        assert (times <= mask).all(), "a row of a window is repeated, or belongs to the held-out fold"


def run_folds() -> Figures:
    """Simulate folds on nodes that fail, until all are done."""
    figures, hours = Figures(), []
    with timed(figures, "coordinator"):
        for seed in range(RUNS):
            cluster = Cluster(NODES_OF_A_FOLD, FAILS_EVERY, 1_000, seed, FOLDS_TO_RUN, NODES)
            cluster.run()
            assert cluster.schedule.units_with(Status.DONE) == list(cluster.hours)
            hours.append(cluster.now)
    return {**figures, "mean_hours": sum(hours) / RUNS, "longest_hours": max(hours)}


def lines(figures: Figures) -> list[str]:
    """The results as a Markdown table."""
    held = f"{figures['rows']:,} rows in {figures['blocks']:,} blocks and {figures['shards']:,} shards"
    read = f"{figures['steps']:,} steps, each row once; each window is decoded {figures['reads_a_window']:.3f} times"
    shuffled = (
        f"{figures['shuffle_reads']:,} reads in {figures['passes']} passes, {figures['most_reads']} for a file at"
    )
    shuffled += f" most; {figures['resume_reads']:,} after a kill in the middle of the last pass"
    receipts = f"{figures['finished']:,} receipts of {figures['receipt_bytes'] / 1e3:.0f} kB read in "
    receipts += f"{figures['finished_seconds']:.1f} s, and no shard"
    need = f"{figures['worker_bytes'] / 1e6:,.0f} MB for each worker"
    done = f"done after {figures['mean_hours']:.1f} h in the mean, {figures['longest_hours']:.1f} h at most"
    results = {
        "planner": ("which pieces of text feed which shard", held),
        "shuffle": ("what `--shuffle` reads between its passes", shuffled),
        "resume": ("which shards are finished when a conversion resumes", receipts),
        "manifest": ("the manifest, written and read", f"{figures['manifest_bytes'] / 1e6:.1f} MB of JSON"),
        "folds": (f"the code of every row, {FOLDS} folds", "each row in one of them"),
        "order": (f"what {WORKERS} workers read in an epoch of {FOLDS} models", f"{read}; {need}"),
        "coordinator": (f"{FOLDS_TO_RUN} folds of {NODES_OF_A_FOLD} nodes on {NODES} that fail, {RUNS} times", done),
    }
    return [
        "| what is worked out | seconds | result |",
        "|---|---:|---|",
        *(f"| {what} | {figures[f'{name}_seconds']:.1f} | {result} |" for name, (what, result) in results.items()),
        f"| all | {figures['seconds']:.1f} | {figures['peak_bytes'] / 1e6:,.0f} MB of memory at most |",
    ]


def peak_bytes(who: int) -> int:
    """The peak memory of this process or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss << 10


def main(result: Path) -> None:
    started = perf_counter()
    figures = simulate(call=apart)
    figures["seconds"] = perf_counter() - started
    figures["peak_bytes"] = max(map(peak_bytes, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    Console(width=140).print(Markdown("\n".join(lines(figures))))
    assert figures["seconds"] < MOST_SECONDS
    assert figures["peak_bytes"] < MOST_BYTES
    write_section("terabyte", [f"`make bench-terabyte` on {machine()}.", "", *lines(figures)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
