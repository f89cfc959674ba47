"""CSV to dataset: open, cut, plan, write every shard once, commit.

A conversion that is killed leaves a work folder with its plan and a receipt for each shard that is in place; the same
request goes on from there, and ends with the same bytes as one that was never disturbed.

The schema is first taken from a sample, and every row is held against it as it is written. What holds for a sample and
is contradicted by no row holds for all; where a row does contradict, all rows are scanned, and written anew.
"""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import takewhile
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ConflictError, SourceError, UsageError
from ..storage.files import (
    clean_temporaries,
    create_json,
    names_in,
    read_json,
    remove_file,
    remove_tree,
    same_json,
    write_atomic,
    write_json,
)
from ..storage.format import LEFT_OUT, MANIFEST, WORK, Manifest, ShardEntry, Statistics
from ..storage.object_path import AnyPath, ObjectPath
from ..storage.progress import Progress, silent
from ..storage.writer import commit, create_arrays, write_block_table
from .csv_cut import CsvText, Cut, Piece, cut_ranges, cut_tasks, resolve_cuts
from .csv_open import OpenedText, OpenTask, open_source
from .csv_rows import Columns
from .executor import Executor, Task
from .findings import Findings, ScanTask, merge_findings, scan_piece
from .moments import Moments, merge_moments
from .plan import ConvertPlan, ConvertRequest, choose_columns, plan_conversion
from .shuffle import SPILLED, ShuffleTask, gather_shard, spill_note, spill_rows
from .texts import Text
from .write import RECEIPTS, has_receipt, receipt_path, shard_task, write_shard_task

Result = TypeVar("Result")

PLAN = "plan.json"
FAULTS = "faults"
FAULT_HEADER = b"file,line,column,reason\n"
SAMPLES = 8
SAMPLE_BYTES = 2 << 20


def convert(
    request: ConvertRequest, root: AnyPath, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's sources into a dataset at `root`, or go on with an earlier attempt at the same.

    Raises SourceError at the first faulty row, before anything is committed, UsageError for options that do not fit
    the data, and ConflictError where `root` holds something else. With `overwrite`, a dataset at `root` is replaced;
    it stays until all rows were read and the new one is planned, so that a typing error does not cost it.
    """
    fingerprint = asdict(request)
    if is_converted(root, fingerprint, overwrite):
        remove_tree(root / WORK)
        return open_dataset(root)
    with _lock(root):
        plan = _load_plan(root, fingerprint, overwrite)
        if plan is None:
            cut = cut_sources(request, root, executor, progress)
            plan = None if (root / MANIFEST).exists() else plan_by_sample(request, cut, executor)
            plan = plan or plan_by_scan(request, cut, root, executor, progress)
            if not create_json(root / WORK / PLAN, plan.to_json()):
                raise ConflictError(f"{root} is being converted by another process; wait for it to end")
        plan = _write(plan, request, root, executor, progress)
        commit_plan(plan, root)
        remove_tree(root / WORK)
    return open_dataset(root)


def _write(
    plan: ConvertPlan, request: ConvertRequest, root: AnyPath, executor: Executor, progress: Progress
) -> ConvertPlan:
    """Write all shards of a plan; if its sample misled, of one by a scan. Returns the plan that was carried out."""
    if not names_in(root / WORK / RECEIPTS):
        _clear(root)
    create_arrays(root, plan.layout, plan.schema.arrays(), attributes(plan))
    misfit = write_shards(plan, root, executor, progress)
    if misfit is None:
        return plan
    progress("sample", 1, 1, f"the first rows did not show it: {misfit}; all rows are scanned")
    remove_tree(root / WORK / RECEIPTS)
    remove_tree(root / WORK / SPILLED)
    cut = plan.texts, [(piece.text, piece.piece) for piece in plan.pieces], plan.columns
    scanned = plan_by_scan(request, cut, root, executor, progress)
    write_json(root / WORK / PLAN, scanned.to_json())
    return _write(scanned, request, root, executor, progress)


def attributes(plan: ConvertPlan) -> dict[str, Any]:
    """What plain Zarr readers see on the group."""
    schema = plan.schema
    return {"foldstream": {"labels": list(schema.labels), "task": schema.task, "classes": list(schema.classes)}}


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
def _lock(root: AnyPath) -> Iterator[None]:
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
    (root / WORK).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / WORK, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"{root} is being converted by another process; wait for it to end") from None
        try:
            yield
        finally:
            if (root / WORK).exists() and not (root / WORK / PLAN).exists():
                remove_tree(root if made else root / WORK)
    finally:
        os.close(descriptor)


def _load_plan(root: AnyPath, fingerprint: dict[str, Any], overwrite: bool) -> ConvertPlan | None:
    """The plan of an attempt that was cut short, None if it did not come so far or is to be replaced."""
    path = root / WORK / PLAN
    if not path.exists():
        return None
    plan = ConvertPlan.from_json(read_json(path))
    if same_json(plan.request, fingerprint):
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


def _clear(root: AnyPath) -> None:
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


CutSources = tuple[Sequence[Text], Sequence[tuple[int, Piece]], Columns]
"""The texts, their pieces in order with their text's number, and the columns that are wanted."""


def cut_sources(request: ConvertRequest, root: AnyPath, executor: Executor, progress: Progress) -> CutSources:
    """Open all sources and cut them into pieces of whole rows."""
    tasks = [
        OpenTask(source, request.csv, str(root / WORK / "unpacked" / f"{i:06d}"))
        for i, source in enumerate(request.sources)
    ]
    opened: list[OpenedText] = _run(executor, open_source, tasks, "open", "sources", progress)
    texts = [one.text for one in opened]
    progress("dialect", 1, 1, texts[0].describe())
    columns = choose_columns(request, texts, opened[0].sample)
    plain = {i: text for i, text in enumerate(texts) if isinstance(text, CsvText) and opened[i].pieces is None}
    ranges = [(i, task) for i, text in plain.items() for task in cut_tasks(text)]
    counts: list[list[Cut]] = _run(executor, cut_ranges, [task for _, task in ranges], "cut", "ranges", progress)
    cuts: dict[int, list[Cut]] = {i: [] for i in plain}
    for (i, _), count in zip(ranges, counts, strict=True):
        cuts[i] += count
    whole = {i: resolve_cuts(text, cuts[i]) for i, text in plain.items()}
    pieces = [(i, piece) for i, one in enumerate(opened) for piece in (one.pieces or whole[i])]
    return texts, pieces, columns


def plan_by_sample(request: ConvertRequest, cut: CutSources, executor: Executor) -> ConvertPlan | None:
    """A plan from the first rows of some pieces; None where only all of them can tell."""
    texts, pieces, columns = cut
    if request.on_error == "skip" or (request.missing == "mean" and not request.like):
        return None
    chosen = sorted({round(i * (len(pieces) - 1) / (SAMPLES - 1)) for i in range(SAMPLES)})
    some = [pieces[i] for i in chosen]
    tasks = [ScanTask(texts[i], piece, columns, request.gaps, None, SAMPLE_BYTES) for i, piece in some]
    found = _run(executor, scan_piece, tasks, "", "", silent)
    try:
        return plan_conversion(request, columns, texts, pieces, None, merge_findings(found, len(columns.features)))
    except UsageError:  # of a sample it may not be true
        return None


def plan_by_scan(
    request: ConvertRequest, cut: CutSources, root: AnyPath, executor: Executor, progress: Progress
) -> ConvertPlan:
    """A plan from all rows."""
    texts, pieces, columns = cut
    folder = root / WORK / FAULTS
    remove_tree(folder)  # of an attempt that had no plan yet
    lists = (str(folder / f"{i:08d}.csv") if request.on_error == "skip" else None for i in range(len(pieces)))
    tasks = [
        ScanTask(texts[i], piece, columns, request.gaps, faults)
        for (i, piece), faults in zip(pieces, lists, strict=True)
    ]
    found: list[Findings] = _run(executor, scan_piece, tasks, "scan", "pieces", progress)
    total = merge_findings(found, len(columns.features))
    if not total.rows:
        faulty = f" that are not faulty ({total.left_out:,} are)" if total.left_out else ""
        raise SourceError(f"{texts[0].path} has no rows{faulty}; there is nothing to convert")
    return plan_conversion(request, columns, texts, pieces, found, total)


def _run(
    executor: Executor,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    stage: str,
    unit: str,
    progress: Progress,
) -> list[Result]:
    """Carry out tasks and return their results in the tasks' order."""
    results: dict[int, Result] = {}
    progress(stage, 0, len(tasks), unit)
    for position, result in executor.map(function, tasks):
        results[position] = result
        progress(stage, len(results), len(tasks), unit)
    return [results[position] for position in range(len(tasks))]


def write_shards(
    plan: ConvertPlan, root: AnyPath, executor: Executor, progress: Progress, wanted: Sequence[int] | None = None
) -> str | None:
    """Write every shard, or those that are wanted, unless it has a valid receipt.

    Returns what does not fit the plan's sample, if anything does not.
    """
    if isinstance(root, Path):
        clean_temporaries(root)  # they take room that the rest may need
    specs, shards = plan.schema.arrays(), range(plan.layout.shards)
    left = [shard for shard in (shards if wanted is None else wanted) if not has_receipt(root, specs, shard)]
    seed = plan.request["shuffle"]
    if seed is None:
        make = partial(shard_task, root, plan)
        return _carry_out(plan, write_shard_task, make, left, "convert", executor, progress)

    def task(shard: int) -> ShuffleTask:
        return ShuffleTask(shard_task(root, plan, shard), seed)

    unread = [shard for shard in shards if left and not spill_note(root, shard).exists()]
    misfit = _carry_out(plan, spill_rows, task, unread, "spread", executor, progress)
    return misfit or _carry_out(plan, gather_shard, task, left, "gather", executor, progress)


def _carry_out(
    plan: ConvertPlan,
    function: Callable[[Task], str | None],
    make: Callable[[int], Task],
    shards: Sequence[int],
    stage: str,
    executor: Executor,
    progress: Progress,
) -> str | None:
    """One task a shard, with progress in rows. After a misfit no more are given out, and none is left running: none
    could write over what a better plan writes."""
    misfits: list[str] = []
    given: Iterable[int] = takewhile(lambda _: not misfits, shards)
    done = plan.layout.rows - sum(stop - start for start, stop in map(plan.layout.shard_range, shards))
    started, before = perf_counter(), done
    progress(stage, done, plan.layout.rows, "rows")
    for position, misfit in executor.map(function, (make(shard) for shard in given)):
        if misfit is not None:
            misfits.append(misfit)
            continue
        start, stop = plan.layout.shard_range(shards[position])
        done += stop - start
        rate = (done - before) / (perf_counter() - started)
        megabytes = rate * plan.schema.arrays()[0].row_bytes / 1e6
        progress(stage, done, plan.layout.rows, f"rows, {rate:,.0f} rows/s, {megabytes:,.0f} MB/s")
    return misfits[0] if misfits else None


def commit_plan(plan: ConvertPlan, root: AnyPath) -> None:
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


def merge_statistics(plan: ConvertPlan, receipts: Sequence[dict[str, Any]]) -> Statistics:
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
