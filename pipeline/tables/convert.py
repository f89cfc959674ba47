"""The conversion of tables: open the sources, cut them, specify the dataset, write every shard once, commit.

A conversion that is killed leaves a work folder with its spec and a receipt for each complete shard. The same request
resumes from there, and produces the same bytes as an uninterrupted conversion.

The schema is first inferred from a sample, and every row is checked against it as it is written. If a row contradicts
the schema, all rows are scanned and all shards are rewritten.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from ...storage.blocks.writer import create_arrays
from ...storage.dataset import Dataset
from ...storage.errors import RowError, SourceError, UsageError
from ...storage.format.manifest import LEFT_OUT, MANIFEST, WORK
from ...storage.format.schema import Schema
from ...storage.format.sequences import TOKENIZER
from ...storage.places.json_files import write_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.programs.own_code import Code, copy_code
from ...storage.tasks import CONVERSION, Executor, Progress, Task, silent
from ..csv.cut import CsvTable, Cut, cut_ranges, cut_tasks, resolve_cuts
from ..csv.row_batch import Columns, Piece, is_unlabelled, joint_remedy
from ..sequences.form import warning_of
from ..target.claim import SKIPPED, SPEC, SPILLED, clear_target, store_spec
from ..target.commit import attributes, commit_dataset
from ..target.conversion import convert_once
from ..target.finished import finished_shards
from ..target.plan import store_plan
from ..target.receipts import RECEIPTS
from ..target.run import Stage, run_shard_tasks
from .fill import ShardPlan, ShardTask, write_shard_task
from .findings import ErrorTask, Findings, ScanPlan, ScanTask, find_errors, merge_findings, scan_piece
from .kinds import describe_kinds
from .readers import OpenedTable, OpenTask, SourceTable, fill_columns, open_source, sample_columns
from .shuffle import ORDER, ShuffledPlaces, StoredPlaces, write_shuffled
from .spec.columns import choose_columns
from .spec.conversion import ConversionSpec, specify_conversion
from .spec.request import NO_CODE, ConvertRequest

Result = TypeVar("Result")

MOST_ERRORS, ERROR_PIECES = 20, 4  # that are shown together, and the pieces on either side that are searched for them
SAMPLES = 8
SAMPLE_BYTES = 2 << 20


def convert(
    request: ConvertRequest,
    root: Location,
    executor: Executor,
    progress: Progress = silent,
    overwrite: bool = False,
    code: Code = NO_CODE,
    check: Callable[[Schema], None] = lambda schema: None,
) -> Dataset:
    """Convert the request's sources into a dataset at `root`, or resume an interrupted conversion of the same request.

    Raises SourceError at the first invalid row (before anything is committed), UsageError for options that do not
    match the data, and ConflictError if `root` contains something else. With `overwrite`, a dataset at `root` is
    replaced, but only once all rows have been read and the new dataset is specified, so that a mistyped option does
    not delete it. `code` are the files of the request's tokenizer, of which the dataset keeps a copy. `check` is called
    with the schema before any row is written, and may raise UsageError.
    """
    root = locate(root)

    def write(stored: Any) -> ConversionSpec:
        copy_code(code, root / WORK / TOKENIZER)
        if stored is None:
            spec = specify(request, root, executor, progress, by_scan=(root / MANIFEST).exists())
            check(spec.schema)
            store_spec(root, spec.to_json())
        else:
            spec = ConversionSpec.from_json(stored)
        with _all_errors(request, root, _cut_of(spec), executor):
            spec = _write(spec, request, root, executor, progress)
        copy_code(code, root / TOKENIZER)
        commit_dataset(spec, root)
        return spec

    return convert_once(root, request.to_json(), write, executor, overwrite)


def specify(
    request: ConvertRequest, root: Place, executor: Executor, progress: Progress, by_scan: bool
) -> ConversionSpec:
    """The spec of a conversion: from a sample of the rows if that is enough, or from all of them."""
    cut = cut_sources(request, root, executor, progress)
    with _all_errors(request, root, cut, executor):
        spec = None if by_scan else specify_by_sample(request, cut, root, executor)
        return spec or specify_by_scan(request, cut, root, executor, progress)


def _write(
    spec: ConversionSpec, request: ConvertRequest, root: Place, executor: Executor, progress: Progress
) -> ConversionSpec:
    """Write all shards of a spec, or of a spec from a full scan if the sample was misleading. Returns the final
    spec."""
    if not (root / WORK / RECEIPTS).names():
        clear_target(root)
    create_arrays(root, spec.layout, spec.schema.arrays(), attributes(spec.schema))
    misfit = write_shards(spec, root, executor, progress)
    if misfit is None:
        return spec
    progress("sample", 1, 1, f"the sampled rows were not representative: {misfit}; scanning all rows")
    (root / WORK / RECEIPTS).remove_tree()
    (root / WORK / SPILLED).remove_tree()
    scanned = specify_by_scan(request, _cut_of(spec), root, executor, progress)
    write_json(root / WORK / SPEC, scanned.to_json())
    return _write(scanned, request, root, executor, progress)


CutSources = tuple[Sequence[SourceTable], Sequence[tuple[int, Piece]], Columns]
"""The tables, their pieces in order with the table's index, and the columns to read."""


def _cut_of(spec: ConversionSpec) -> CutSources:
    return spec.tables, [(piece.table, piece.piece) for piece in spec.pieces], spec.columns


@contextmanager
def _all_errors(request: ConvertRequest, root: Place, cut: CutSources, executor: Executor) -> Iterator[None]:
    """Add other errors of the same file to an error of a row, so that they can be fixed together. Shards are written at
    the same time, so the first error to be raised need not be that of the first row."""
    try:
        yield
    except RowError as error:
        tables, pieces, columns = cut
        place = next(place for place, table in enumerate(tables) if table.path == error.source)
        of_table = [piece for table, piece in pieces if table == place]
        at = sum(piece.line <= error.line for piece in of_table) - 1
        task = ErrorTask(
            tables[place],
            tuple(of_table[max(0, at - ERROR_PIECES) : at + ERROR_PIECES]),
            columns,
            request.missing == "error",
            request.like,
            request.unknown == "code",
            MOST_ERRORS,
            request.reading(root),
        )
        [found] = _run(executor, find_errors, [task], "", "", silent)
        found = [one for one in found if not is_unlabelled(one, request.needed_labels({*columns.texts}))]
        if (error.line, error.column) not in [(one.line, one.column) for one in found]:
            found = sorted([*found, error], key=lambda one: one.line)
        first, *others = found[:MOST_ERRORS]
        raise first.with_others(others, joint_remedy(found, columns.places)) from None


def cut_sources(request: ConvertRequest, root: Place, executor: Executor, progress: Progress) -> CutSources:
    """Open all sources and cut them into pieces of whole rows."""
    tasks = [
        OpenTask(source, request.csv, str(root / WORK / "unpacked" / f"{i:06d}"), next(iter(request.sequences), None))
        for i, source in enumerate(request.sources)
    ]
    found: list[list[OpenedTable]] = _run(
        executor, open_source, tasks, "open", "sources", shown(progress, executor, root)
    )
    expected = request.like.features if request.like else ()
    opened = fill_columns([one for tables in found for one in tables], request.columns, expected)
    tables = [one.table for one in opened]
    named = dict.fromkeys(name for one in tables for name, value in one.constants.items() if value is not None)
    folders = f", columns from the folders' names: {', '.join(named)}" if named else ""
    progress("dialect", 1, 1, tables[0].describe() + folders)
    if not any(one.pieces is None or one.pieces for one in opened):
        raise _no_rows(tables[0])
    sample = sample_columns(opened)
    columns = choose_columns(request, tables, sample)
    shown_texts = {*columns.features, *request.labels} - {*columns.sequences}
    texts = [] if request.like else [name for name in columns.texts if name in shown_texts]
    if said := describe_kinds(tables[0], texts, columns.formats, request, sample):
        progress("columns", 1, 1, "; ".join(said))
    plain = {i: table for i, table in enumerate(tables) if isinstance(table, CsvTable) and opened[i].pieces is None}
    ranges = [(i, task) for i, table in plain.items() for task in cut_tasks(table)]
    counts: list[list[Cut]] = _run(
        executor, cut_ranges, [task for _, task in ranges], "cut", "ranges", shown(progress, executor, root)
    )
    cuts: dict[int, list[Cut]] = {i: [] for i in plain}
    for (i, _), count in zip(ranges, counts, strict=True):
        cuts[i] += count
    whole = {i: resolve_cuts(table, cuts[i]) for i, table in plain.items()}
    parts = [whole[i] if one.pieces is None else one.pieces for i, one in enumerate(opened)]
    if not any(parts):
        raise _no_rows(tables[0])
    empty = [table.path for table, part in zip(tables, parts, strict=True) if not part]
    if empty := [*empty, *(source.path for source in request.sources if not source.bytes)]:
        progress("passed over", 1, 1, f"{len(empty):,} files without rows, such as {empty[0]}")
    return tables, [(i, piece) for i, part in enumerate(parts) for piece in part], columns


def _no_rows(table: SourceTable) -> SourceError:
    what = "a header but no rows" if isinstance(table, CsvTable) else "no rows"
    return SourceError(f"{table.path} has {what}; there is nothing to convert")


def specify_by_sample(
    request: ConvertRequest, cut: CutSources, root: Place, executor: Executor
) -> ConversionSpec | None:
    """A spec from the first rows of some pieces; None if a full scan is needed."""
    tables, pieces, columns = cut
    if request.on_error == "skip" or request.sequences:  # the longest sequence decides how all are stored
        return None
    chosen = sorted({round(i * (len(pieces) - 1) / (SAMPLES - 1)) for i in range(SAMPLES)})
    some = [pieces[i] for i in chosen]
    plan = _scan_plan(request, root, tables, columns)  # kept, so that this process does not read it
    stored = store_plan(root, plan)
    tasks = [ScanTask(stored, table, piece, None, SAMPLE_BYTES) for table, piece in some]
    try:
        found = merge_findings(_run(executor, scan_piece, tasks, "", "", silent), len(columns.features))
        spec = specify_conversion(request, columns, tables, pieces, None, found)
    except UsageError:  # it may apply to the sample only
        return None
    except RowError as error:
        if is_unlabelled(error, request.needed_labels({*columns.texts})):
            return None
        raise
    # A text may have a value of its own in each row of the sample, and yet few values.
    left_out = [found.texts[name] for name in spec.schema.left_out if name in found.texts]
    few = any(texts.distinct is not None for texts in left_out)
    return None if few and found.rows < spec.layout.rows else spec


def specify_by_scan(
    request: ConvertRequest, cut: CutSources, root: Place, executor: Executor, progress: Progress
) -> ConversionSpec:
    """A spec from a scan of all rows."""
    tables, pieces, columns = cut
    folder = root / WORK / SKIPPED
    skips = request.on_error == "skip" or request.needed_labels({*columns.texts})
    plan = _scan_plan(request, root, tables, columns)  # kept, so that this process does not read it
    stored = store_plan(root, plan)
    tasks = [
        ScanTask(stored, *piece, str(folder / f"{i:08d}.csv") if skips else None) for i, piece in enumerate(pieces)
    ]
    found: list[Findings] = _run(executor, scan_piece, tasks, "scan", "pieces", shown(progress, executor, root))
    total = merge_findings(found, len(columns.features))
    if not total.rows:
        valid = f" valid rows ({len(total.skipped):,} are invalid)" if total.skipped else " rows"
        raise SourceError(f"{tables[0].path} has no{valid}; there is nothing to convert")
    if total.skipped and request.on_error == "stop":
        names = " or ".join(f"'{name}'" for name in request.labels)
        progress("left out", 1, 1, f"{len(total.skipped):,} rows without {names}; {LEFT_OUT} in the dataset lists them")
    spec = specify_conversion(request, columns, tables, pieces, found, total)
    if tokens := spec.schema.tokens:
        cut_off = f", {tokens.truncated:,} longer ones are truncated" if tokens.truncated else ""
        lengths = f"sequences of up to {spec.schema.sample_shape[0]:,} token ids{cut_off}"
        progress("tokens", 1, 1, f"{lengths}; a vocabulary of {tokens.vocabulary:,}{warning_of(tokens.vocabulary)}")
    return spec


def _scan_plan(request: ConvertRequest, root: Place, tables: Sequence[SourceTable], columns: Columns) -> ScanPlan:
    required, skips, tokens = request.missing == "error", request.on_error == "skip", request.reading(root)
    length = request.like.sample_shape[0] if request.like and tokens else request.length
    labels, own = request.needed_labels({*columns.texts}), request.labels_in({*columns.texts})
    vector = () if own == request.labels else own
    return ScanPlan(tables, columns, required, skips, labels, vector, tokens, length)


def shown(progress: Progress, executor: Executor, root: Place) -> Progress:
    """The progress of the conversion into `root`, also published on the executor's dashboard."""

    def report(stage: str, done: int, total: int, remark: str = "") -> None:
        progress(stage, done, total, remark)
        executor.publish(CONVERSION, {"place": str(root), "stage": stage, "done": done, "total": total, "unit": remark})

    return report


def _run(
    executor: Executor,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    stage: str,
    unit: str,
    progress: Progress,
) -> list[Result]:
    """Run tasks and return their results in the order of the tasks."""
    results: dict[int, Result] = {}
    progress(stage, 0, len(tasks), unit)
    for position, result in executor.map(function, tasks):
        results[position] = result
        progress(stage, len(results), len(tasks), unit)
    return [results[position] for position in range(len(tasks))]


def write_shards(
    spec: ConversionSpec, root: Place, executor: Executor, progress: Progress, wanted: Sequence[int] | None = None
) -> str | None:
    """Write every shard, or only those in `wanted`, unless it is finished.

    Returns a description of the first value that contradicts the spec's sample, or None.
    """
    root.clean_temporaries()  # they occupy space that the other shards may need
    finished = finished_shards(root, spec.schema.arrays(), executor, progress)
    left = [shard for shard in (range(spec.layout.shards) if wanted is None else wanted) if shard not in finished]
    if (seed := spec.request["shuffle"]) is not None:
        return write_shuffled(spec, root, left, ShuffledPlaces(seed), executor, progress)
    if digest := spec.request.get("order"):
        places = StoredPlaces(str(root.parent / WORK / ORDER), digest)
        return write_shuffled(spec, root, left, places, executor, progress)
    plan = ShardPlan.of(spec, root)
    stage = Stage("convert", write_shard_task, partial(ShardTask, store_plan(root, plan)))
    misfits = run_shard_tasks(stage, spec, root, left, executor, progress)
    return misfits[0] if misfits else None
