"""CSV to dataset: open, cut, plan, write every shard once, commit.

A conversion that is killed leaves a work folder with its plan and a receipt for each shard that is in place; the same
request goes on from there, and ends with the same bytes as one that was never disturbed.

The schema is first taken from a sample, and every row is held against it as it is written. What holds for a sample and
is contradicted by no row holds for all; where a row does contradict, all rows are scanned, and written anew.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, SourceError, UsageError
from ...storage.format import MANIFEST, WORK
from ...storage.places.json_files import create_json, write_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.tasks import CONVERSION, Executor, Progress, Task, silent
from ...storage.writer import create_arrays
from ..csv.cut import CsvText, Cut, cut_ranges, cut_tasks, resolve_cuts
from ..csv.row_batch import Columns, Piece
from ..target.claim import FAULTS, PLAN, SPILLED, clear_target, is_converted, load_plan, lock_target
from ..target.commit import attributes, commit_plan
from ..target.receipts import RECEIPTS, has_receipt
from ..target.run import carry_out
from .fill import shard_task, write_shard_task
from .findings import Findings, ScanTask, merge_findings, scan_piece
from .plan import ConvertPlan, ConvertRequest, choose_columns, plan_conversion
from .readers import OpenedText, OpenTask, Text, open_source
from .shuffle import ShuffleTask, gather_shard, spill_note, spill_rows

Result = TypeVar("Result")

SAMPLES = 8
SAMPLE_BYTES = 2 << 20


def convert(
    request: ConvertRequest, root: Location, executor: Executor, progress: Progress = silent, overwrite: bool = False
) -> Dataset:
    """Convert the request's sources into a dataset at `root`, or go on with an earlier attempt at the same.

    Raises SourceError at the first faulty row, before anything is committed, UsageError for options that do not fit
    the data, and ConflictError where `root` holds something else. With `overwrite`, a dataset at `root` is replaced;
    it stays until all rows were read and the new one is planned, so that a typing error does not cost it.
    """
    root, fingerprint = locate(root), request.to_json()
    if is_converted(root, fingerprint, overwrite):
        (root / WORK).remove_tree()
        return open_dataset(root)
    with lock_target(root):
        begun = load_plan(root, fingerprint, overwrite)
        plan = begun and ConvertPlan.from_json(begun)
        if plan is None:
            cut = cut_sources(request, root, executor, progress)
            plan = None if (root / MANIFEST).exists() else plan_by_sample(request, cut, executor)
            plan = plan or plan_by_scan(request, cut, root, executor, progress)
            if not create_json(root / WORK / PLAN, plan.to_json()):
                raise ConflictError(f"{root} is being converted by another process; wait for it to end")
        plan = _write(plan, request, root, executor, progress)
        commit_plan(plan, root)
        (root / WORK).remove_tree()
    return open_dataset(root)


def _write(
    plan: ConvertPlan, request: ConvertRequest, root: Place, executor: Executor, progress: Progress
) -> ConvertPlan:
    """Write all shards of a plan; if its sample misled, of one by a scan. Returns the plan that was carried out."""
    if not (root / WORK / RECEIPTS).names():
        clear_target(root)
    create_arrays(root, plan.layout, plan.schema.arrays(), attributes(plan))
    misfit = write_shards(plan, root, executor, progress)
    if misfit is None:
        return plan
    progress("sample", 1, 1, f"the first rows did not show it: {misfit}; all rows are scanned")
    (root / WORK / RECEIPTS).remove_tree()
    (root / WORK / SPILLED).remove_tree()
    cut = plan.texts, [(piece.text, piece.piece) for piece in plan.pieces], plan.columns
    scanned = plan_by_scan(request, cut, root, executor, progress)
    write_json(root / WORK / PLAN, scanned.to_json())
    return _write(scanned, request, root, executor, progress)


CutSources = tuple[Sequence[Text], Sequence[tuple[int, Piece]], Columns]
"""The texts, their pieces in order with their text's number, and the columns that are wanted."""


def cut_sources(request: ConvertRequest, root: Place, executor: Executor, progress: Progress) -> CutSources:
    """Open all sources and cut them into pieces of whole rows."""
    tasks = [
        OpenTask(source, request.csv, str(root / WORK / "unpacked" / f"{i:06d}"))
        for i, source in enumerate(request.sources)
    ]
    opened: list[OpenedText] = _run(executor, open_source, tasks, "open", "sources", shown(progress, executor, root))
    texts = [one.text for one in opened]
    progress("dialect", 1, 1, texts[0].describe())
    columns = choose_columns(request, texts, opened[0].sample)
    plain = {i: text for i, text in enumerate(texts) if isinstance(text, CsvText) and opened[i].pieces is None}
    ranges = [(i, task) for i, text in plain.items() for task in cut_tasks(text)]
    counts: list[list[Cut]] = _run(
        executor, cut_ranges, [task for _, task in ranges], "cut", "ranges", shown(progress, executor, root)
    )
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
    request: ConvertRequest, cut: CutSources, root: Place, executor: Executor, progress: Progress
) -> ConvertPlan:
    """A plan from all rows."""
    texts, pieces, columns = cut
    folder = root / WORK / FAULTS
    folder.remove_tree()  # of an attempt that had no plan yet
    lists = (str(folder / f"{i:08d}.csv") if request.on_error == "skip" else None for i in range(len(pieces)))
    tasks = [
        ScanTask(texts[i], piece, columns, request.gaps, faults)
        for (i, piece), faults in zip(pieces, lists, strict=True)
    ]
    found: list[Findings] = _run(executor, scan_piece, tasks, "scan", "pieces", shown(progress, executor, root))
    total = merge_findings(found, len(columns.features))
    if not total.rows:
        faulty = f" that are not faulty ({total.left_out:,} are)" if total.left_out else ""
        raise SourceError(f"{texts[0].path} has no rows{faulty}; there is nothing to convert")
    return plan_conversion(request, columns, texts, pieces, found, total)


def shown(progress: Progress, executor: Executor, root: Place) -> Progress:
    """Progress of the conversion into `root` that is told to those who look at the executor's dashboard, too."""

    def tell(stage: str, done: int, total: int, remark: str = "") -> None:
        progress(stage, done, total, remark)
        executor.tell(CONVERSION, {"place": str(root), "stage": stage, "done": done, "total": total, "unit": remark})

    return tell


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
    plan: ConvertPlan, root: Place, executor: Executor, progress: Progress, wanted: Sequence[int] | None = None
) -> str | None:
    """Write every shard, or those that are wanted, unless it has a valid receipt.

    Returns what does not fit the plan's sample, if anything does not.
    """
    root.clean_temporaries()  # they take room that the rest may need
    specs, shards = plan.schema.arrays(), range(plan.layout.shards)
    left = [shard for shard in (shards if wanted is None else wanted) if not has_receipt(root, specs, shard)]
    seed = plan.request["shuffle"]
    if seed is None:
        make = partial(shard_task, root, plan)
        misfits = carry_out(plan, root, write_shard_task, make, left, "convert", executor, progress)
        return misfits[0] if misfits else None

    def task(shard: int) -> ShuffleTask:
        return ShuffleTask(shard_task(root, plan, shard), seed)

    unread = [shard for shard in shards if left and not spill_note(root, shard).exists()]
    misfits = carry_out(plan, root, spill_rows, task, unread, "spread", executor, progress)
    misfits = misfits or carry_out(plan, root, gather_shard, task, left, "gather", executor, progress)
    return misfits[0] if misfits else None
