"""CSV to dataset: split, scan, plan, write every shard once, commit.

A conversion that is killed leaves a work folder with its plan and a receipt for each shard that is in place; the same
request goes on from there, and ends with the same bytes as one that was never disturbed.
"""

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ConflictError, SourceError
from ..storage.files import clean_temporaries, content_hash, read_json, same_json, write_atomic, write_json
from ..storage.format import LEFT_OUT, MANIFEST, WORK, Layout, Manifest, Schema, ShardEntry
from ..storage.progress import Progress, silent
from ..storage.shards import shard_key
from ..storage.writer import commit, create_arrays, write_block_table, write_shard
from .csv_parse import Columns, parse_piece, parse_sound_rows
from .csv_plan import ConvertPlan, ConvertRequest, PlannedPiece, choose_features, plan_conversion
from .csv_scan import PieceScan, ScanTask, merge_scans, scan_piece
from .csv_split import Split, SplitTask, split_source
from .executor import Executor, Task

Result = TypeVar("Result")

RECEIPTS = "receipts"
FAULTS = "faults"
FAULT_HEADER = b"file,line,column,reason\n"


@dataclass(frozen=True)
class ShardTask:
    """Write one shard of every array from the pieces that hold its rows, then its receipt."""

    root: str
    layout: Layout
    schema: Schema
    shard: int
    pieces: tuple[PlannedPiece, ...]


def convert(
    request: ConvertRequest, root: Path, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's sources into a dataset at `root`, or go on with an earlier attempt at the same.

    Raises SourceError at the first faulty row, before anything is committed, UsageError for options that do not fit
    the data, and ConflictError where `root` holds something else. With `overwrite`, a dataset at `root` is replaced;
    it stays until the new one is planned, so that a typing error does not cost it.
    """
    fingerprint = asdict(request)
    if is_converted(root, fingerprint, overwrite):
        shutil.rmtree(root / WORK, ignore_errors=True)
        return open_dataset(root)
    with _lock(root):
        plan = _load_plan(root, fingerprint, overwrite)
        if plan is None:
            plan = make_plan(request, root, executor, progress)
            write_json(root / WORK / "plan.json", plan.to_json())
        if not (root / WORK / RECEIPTS).exists():
            _clear(root)
        create_arrays(root, plan.layout, plan.schema.arrays(), attributes(plan))
        write_shards(plan, root, executor, progress)
        commit_plan(plan, root)
        shutil.rmtree(root / WORK)
    return open_dataset(root)


def attributes(plan: ConvertPlan) -> dict[str, Any]:
    """What plain Zarr readers see on the group."""
    return {"foldstream": {"label": plan.schema.label, "task": plan.schema.task, "classes": list(plan.schema.classes)}}


def is_converted(root: Path, fingerprint: dict[str, Any], overwrite: bool = False) -> bool:
    """Whether `root` holds the committed result of this request.

    Raises ConflictError where it holds the result of another one (unless `overwrite`) or what is not Foldstream's.
    """
    if (root / MANIFEST).exists():
        if overwrite or same_json(open_dataset(root).request, fingerprint):
            return not overwrite
        raise ConflictError(f"{root} holds another dataset; choose another name, or replace it with --overwrite")
    if root.exists() and not (root / WORK).exists() and (root.is_file() or any(root.iterdir())):
        raise ConflictError(f"{root} holds something that is not a dataset; choose another name")
    return False


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """Let one converter at a time work at `root`. The system frees the lock when its holder dies.

    Without a plan at the end nothing has been written: the folders that were made go, and what was there stays.
    """
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
            if (root / WORK).exists() and not (root / WORK / "plan.json").exists():
                shutil.rmtree(root if made else root / WORK)
    finally:
        os.close(descriptor)


def _load_plan(root: Path, fingerprint: dict[str, Any], overwrite: bool) -> ConvertPlan | None:
    """The plan of an attempt that was cut short, None if it did not come so far or is to be replaced."""
    path = root / WORK / "plan.json"
    if not path.exists():
        return None
    plan = ConvertPlan.from_json(read_json(path))
    if same_json(plan.request, fingerprint):
        return plan
    if overwrite:
        path.unlink()
        shutil.rmtree(root / WORK / RECEIPTS, ignore_errors=True)
        return None
    raise ConflictError(
        f"{root} holds an unfinished conversion with other options or sources; "
        "repeat that command, choose another name, or start anew with --overwrite"
    )


def _clear(root: Path) -> None:
    """Remove an earlier dataset, its manifest first: from then on it is none, should the removal be cut short."""
    (root / MANIFEST).unlink(missing_ok=True)
    for path in root.iterdir():
        if path.is_dir() and path.name != WORK:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def make_plan(request: ConvertRequest, root: Path, executor: Executor, progress: Progress) -> ConvertPlan:
    """Read all sources once and decide what to write."""
    tasks = [SplitTask(s, str(root / WORK / "unpacked" / f"{i:06d}")) for i, s in enumerate(request.sources)]
    splits: list[Split] = _run(executor, split_source, tasks, "split", "sources", progress)
    features = choose_features(request, [split.header for split in splits])
    pieces = [piece for split in splits for piece in split.pieces]
    headers = [split.header for split in splits for _ in split.pieces]
    folder = root / WORK / FAULTS
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that had no plan yet
    lists = (str(folder / f"{i:08d}.csv") if request.on_error == "skip" else None for i in range(len(pieces)))
    scan_tasks = [
        ScanTask(piece, header, features, request.label, request.id, faults)
        for piece, header, faults in zip(pieces, headers, lists, strict=True)
    ]
    scans: list[PieceScan] = _run(executor, scan_piece, scan_tasks, "scan", "pieces", progress)
    total = merge_scans(scans)
    if not total.rows:
        faulty = f" that are not faulty ({total.left_out:,} are)" if total.left_out else ""
        raise SourceError(f"{request.sources[0].path} has no rows{faulty}; there is nothing to convert")
    return plan_conversion(request, features, pieces, headers, scans, total)


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


def write_shards(plan: ConvertPlan, root: Path, executor: Executor, progress: Progress) -> None:
    """Write every shard that has no valid receipt."""
    clean_temporaries(root)
    left = [shard for shard in range(plan.layout.shards) if not _has_receipt(root, plan, shard)]
    tasks = [ShardTask(str(root), plan.layout, plan.schema, shard, plan.pieces_of(shard)) for shard in left]
    done = plan.layout.rows - sum(stop - start for start, stop in map(plan.layout.shard_range, left))
    started, before = perf_counter(), done
    progress("convert", done, plan.layout.rows, "rows")
    for position, _ in executor.map(write_shard_task, tasks):
        start, stop = plan.layout.shard_range(left[position])
        done += stop - start
        rate = (done - before) / (perf_counter() - started)
        megabytes = rate * plan.schema.arrays()[0].row_bytes / 1e6
        progress("convert", done, plan.layout.rows, f"rows, {rate:,.0f} rows/s, {megabytes:,.0f} MB/s")


def _receipt_path(root: Path, shard: int) -> Path:
    return root / WORK / RECEIPTS / f"{shard:08d}.json"


def _has_receipt(root: Path, plan: ConvertPlan, shard: int) -> bool:
    """Whether a shard is in place: its receipt is there, and its files have the bytes that it names."""
    path = _receipt_path(root, shard)
    if not path.exists():
        return False
    receipt = read_json(path)["entry"]
    for spec in plan.schema.arrays():
        file = root / shard_key(spec, shard)
        if not file.exists() or content_hash(file.read_bytes()) != receipt["hashes"][spec.name]:
            return False
    return True


def write_shard_task(task: ShardTask) -> int:
    """Parse the pieces of one shard, write its arrays, then its receipt. Returns the shard's number."""
    root = Path(task.root)
    specs = task.schema.arrays()
    start, stop = task.layout.shard_range(task.shard)
    arrays = {spec.name: spec.empty(stop - start) for spec in specs}
    arrays["id"][:] = np.arange(start, stop)
    for planned in task.pieces:
        table = parse_rows(planned, task.schema)
        first, last = max(start, planned.first_row), min(stop, planned.first_row + planned.rows)
        table = table.slice(first - planned.first_row, last - first)
        fill_rows(arrays, slice(first - start, last - start), table, task.schema)
    written = write_shard(root, task.layout, specs, task.shard, arrays)
    receipt = {**asdict(written), "class_counts": count_classes(arrays, task.layout, task.schema).tolist()}
    write_json(_receipt_path(root, task.shard), receipt)
    return task.shard


def parse_rows(planned: PlannedPiece, schema: Schema) -> pa.Table:
    """Parse a piece again, now with its types known. Raises SourceError if it changed since it was scanned."""
    kind = pa.from_numpy_dtype(np.dtype(schema.x_dtype))
    wide = pa.float64() if pa.types.is_floating(kind) else kind
    text = tuple(name for name in (schema.label, schema.key) if name)
    columns = Columns(planned.header, schema.features, text)
    types = dict.fromkeys(schema.features, wide)
    if planned.left_out:
        table, _ = parse_sound_rows(planned.piece, columns, types)
    else:
        table = parse_piece(planned.piece, columns, types)
    if table.num_rows != planned.rows:
        raise SourceError(
            f"{planned.piece.source} changed while it was converted ({planned.rows:,} rows became {table.num_rows:,}); "
            "run the command again with --overwrite once it rests"
        )
    return table


def fill_rows(arrays: dict[str, np.ndarray], rows: slice, table: pa.Table, schema: Schema) -> None:
    """Put a table's rows into the arrays of a shard. `arrays[name][rows]` has as many rows as the table."""
    x = arrays["x"][rows].reshape(table.num_rows, -1)
    for position, name in enumerate(schema.features):
        x[:, position] = table.column(name).to_numpy()
    if schema.task == "classification":
        codes = pc.index_in(table.column(schema.label), pa.array(schema.classes)).to_numpy()
        arrays["y"][rows] = codes
    elif schema.task == "regression":
        arrays["y"][rows] = table.column(schema.label).cast(pa.float64()).to_numpy()
    if schema.key and schema.key_width:
        keys = table.column(schema.key).cast(pa.binary()).to_numpy().astype(f"S{schema.key_width}")
        arrays["key"][rows] = keys.view(np.uint8).reshape(-1, schema.key_width)
    elif schema.key:
        arrays["key"][rows] = table.column(schema.key).cast(pa.int64()).to_numpy()


def count_classes(arrays: dict[str, np.ndarray], layout: Layout, schema: Schema) -> np.ndarray:
    """Rows of each class in every block of one shard, (blocks, classes) int64; no columns without classes."""
    y = arrays["y"] if schema.classes else np.zeros(0, np.int64)
    blocks = [y[start : start + layout.block_rows] for start in range(0, len(arrays["id"]), layout.block_rows)]
    return np.stack([np.bincount(block, minlength=len(schema.classes)) for block in blocks])


def commit_plan(plan: ConvertPlan, root: Path) -> None:
    """Gather the receipts and make the dataset exist."""
    receipts = [read_json(_receipt_path(root, shard)) for shard in range(plan.layout.shards)]
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
        "statistics": asdict(plan.statistics),
        "request": plan.request,
        "class_counts": [totals[code] for code in range(len(plan.schema.classes))],
        "left_out": plan.left_out,
    }
    commit_faults(root)
    shards = tuple(ShardEntry(**receipt["entry"]) for receipt in receipts)
    commit(root, Manifest("dataset", plan.layout, plan.schema.arrays(), shards, details), checksums)


def commit_faults(root: Path) -> None:
    """Gather the lists of faulty rows in one beside the arrays, if there are any."""
    listed = [path.read_bytes() for path in sorted((root / WORK / FAULTS).glob("*.csv"))]
    if listed:
        write_atomic(root / LEFT_OUT, FAULT_HEADER + b"".join(listed))
