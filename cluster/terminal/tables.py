"""Tables of datasets, fold plans, estimates and results, as printed by the commands."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from math import isnan, nan
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ...storage.machine import size_text
from ...storage.metrics.names import brief_scores, in_usual_order, score_text
from .output import console, print_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pandas import DataFrame

    from ...storage.dataset import ColumnFacts, Dataset
    from ...storage.fold_plan import FoldPlan
    from ..planning.job import JobEstimate


def print_dataset(dataset: Dataset) -> None:
    """Print what a dataset contains: for people a summary, for programs all of it, with every column."""
    columns = dataset.columns()
    facts = {**dataset.facts(), "columns": list(map(vars, columns))}
    print_result(facts, lambda: show_dataset(dataset, columns))


def show_dataset(dataset: Dataset, columns: Sequence[ColumnFacts]) -> None:
    """Print a summary of a dataset and its columns."""
    from ...storage.format.manifest import LEFT_OUT, PLANS  # here, because it loads numpy
    from ...storage.versions import manifest_of

    schema, layout = dataset.schema, dataset.layout
    table = Table(box=None, show_header=False, title=dataset.location, title_justify="left")
    table.add_row("rows", f"{len(dataset):,}")
    for number, part in enumerate(dataset.versions, 1) if dataset.version > 1 else ():
        when = datetime.fromtimestamp(manifest_of(dataset.place, number).describe().mtime_ns / 1e9, UTC)
        more = f" and {len(part.sources) - 1:,} more" if len(part.sources) > 1 else ""
        what = f"{part.rows:,} rows, {when:%Y-%m-%d %H:%M} UTC, from {part.sources[0]}{more}"
        table.add_row(f"version {number}", what)
    for part in dataset.versions:
        if part.left_out:
            what, listed = "images" if schema.image else "rows", dataset.folder_of(part) / LEFT_OUT
            table.add_row("skipped", f"{part.left_out:,} invalid {what}, see {listed}")
    origin = f"{len(schema.features):,} columns" if schema.features else "arrays"
    if schema.x_dtype == "float32" and dataset.request.get("dtype") == "auto" and not schema.image:
        origin += "; fractions are stored with 7 digits (16 with --dtype float64)"
    if schema.image:
        origin = f"images, {schema.image.color}, {schema.image.fit}"
    if schema.tokens:
        origin = f"sequences of token ids below {schema.tokens.vocabulary:,}, padded with 0"
        if schema.tokens.truncated:
            origin += f", {schema.tokens.truncated:,} of them truncated"
    table.add_row("x", f"{schema.x_dtype} {schema.sample_shape} from {origin}")
    if schema.classes:
        counts = ", ".join(f"{name}: {n:,}" for name, n in zip(schema.classes[:20], dataset.class_totals, strict=False))
        more = f" and {len(schema.classes) - 20} more" if len(schema.classes) > 20 else ""
        table.add_row("label", f"{schema.labels[0]}, {len(schema.classes)} classes ({counts}{more})")
    if schema.task == "multilabel":
        shares = zip(schema.labels[:20], dataset.statistics.y_mean, strict=False)
        ones = ", ".join(f"{name}: {round(share * len(dataset)):,}" for name, share in shares)
        more = f" and {len(schema.labels) - 20} more" if len(schema.labels) > 20 else ""
        table.add_row("labels", f"{len(schema.labels)}, multi-label: all are 0 or 1 ({ones}{more} rows with a 1)")
        table.add_row("", "use --task regression to treat them as regression targets")
    if form := schema.windows:
        where = f" of each {', '.join(form.groups)}" if form.groups else ""
        table.add_row("windows", f"{form.length:,} rows{where} in the order of {form.time}")
        table.add_row("target", f"{form.label} of the next {form.horizon:,} rows, regression")
    if schema.dense and schema.dense.classes:
        names = schema.dense.classes
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        table.add_row("target", f"masks, {len(names)} classes (pixel values {', '.join(names[:20])}{more})")
    for label in schema.labels if schema.task == "regression" and not schema.windows else ():
        of_numbers = f"vectors of {schema.outputs:,} numbers, " if schema.dense else ""
        what = f"images {schema.target_shape}, " if schema.target_name else of_numbers
        table.add_row("target", f"{label}, {what}regression")
    table.add_row("blocks", f"{layout.blocks:,} of {layout.block_rows:,} rows")
    table.add_row("shards", f"{layout.shards:,}, {size_text(dataset.stored_bytes)} on disk")
    if schema.encoded:
        pixels = len(dataset) * dataset.spec("x").row_bytes
        table.add_row("images", f"stored as files, decoded when they are read; {size_text(pixels)} as pixels")
    if foreign := dataset.foreign:
        from ...pipeline.adopt.speed import compare_speed

        files = foreign.files[0] + (f" and {len(foreign.files) - 1:,} more files" if foreign.files[1:] else "")
        table.add_row("features", f"{files}, {size_text(foreign.stored_bytes)}")
        if speed := compare_speed(dataset):
            table.add_row("", speed.describe())
    if plans := (dataset.place / PLANS).names():
        table.add_row("fold plans", ", ".join(plans))
    console.print(table)
    if schema.tabular.features:
        show_columns(columns)


MOST_COLUMNS = 30  # in a table on the console


def show_columns(columns: Sequence[ColumnFacts]) -> None:
    """Print the role of each column; of a long table only the first columns and those that are not plain features."""
    from ...storage.format.sequences import BESIDE_TOKENS

    special = [column for column in columns if column.role != "feature"]
    features = [column for column in columns if column.role == "feature"]
    shown = features[: max(5, MOST_COLUMNS - len(special))] if len(columns) > MOST_COLUMNS else features
    table = Table("column", "role", "kind", "dtype", *NUMERIC, box=None)
    for heading in table.columns[-len(NUMERIC) :]:
        heading.justify = "right"
    for column in (*special, *shown):
        table.add_row(*column_cells(column))
    console.print(table)
    if more := len(features) - len(shown):
        console.print(f"and {more:,} more features; 'foldstream --json info' lists all", highlight=False)
    for column in columns:
        if column.reason:
            option = "--category" if column.reason.startswith("text") else "--feature"
            option = "--keep" if column.reason == BESIDE_TOKENS else option
            console.print(
                f"dropped: {column.name}, {column.reason}; keep it with {option} '{column.name}'", highlight=False
            )


NUMERIC = ("missing", "distinct", "min", "mean", "max")


def column_cells(column: ColumnFacts) -> list[str]:
    """The cells of a column's row."""
    values = (column.minimum, column.mean, column.maximum)
    numbers = ["" if count is None else f"{count:,}" for count in (column.missing, column.distinct)]
    numbers += [
        "" if value is None else f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.5g}" for value in values
    ]
    if column.kind in ("days", "seconds"):
        import numpy as np  # here, because --help waits for this module

        unit = "datetime64[D]" if column.kind == "days" else "datetime64[s]"
        numbers[2:] = ["" if value is None else str(np.array(int(value)).astype(unit)) for value in values]
    times = dict.fromkeys(("seconds", "microseconds", "nanoseconds"), "time")
    kind = {"days": "date", **times}.get(column.kind, column.kind)
    return [column.name, column.role, kind, column.dtype, *numbers]


def show_rows(rows: DataFrame) -> None:
    """Print rows of a dataset; of many columns only the first ones."""
    shown = rows.iloc[:, :MOST_COLUMNS]
    table = Table("row", *map(str, shown.columns), box=None)
    for row in shown.itertuples():
        table.add_row(*(_cell(value) for value in row))
    console.print(table, markup=False)
    if more := rows.shape[1] - shown.shape[1]:
        console.print(f"and {more:,} more columns", highlight=False)


def _cell(value: Any) -> str:
    """A value of a row; missing ones are empty, float32 has 7 digits, and of sequences the first ids are shown."""
    if isinstance(value, list):
        from ...storage.format.sequences import ids_text

        return ids_text(value)
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.7g}"
    return "" if value is None else str(value)


def show_plan(plan: FoldPlan) -> None:
    """Print how many rows each model is trained on and scored on."""
    table = Table("model", "training rows", "held-out rows", title=str(plan.place), title_justify="left")
    for number, rows in enumerate(plan.models):
        cells = (f"{plan.counts(rows.array, codes).sum():,}" for codes in (rows.train, rows.held_out))
        table.add_row(str(number), *cells)
    console.print(table)
    if plan.holdout.held_out:
        count = plan.counts(plan.holdout.array, plan.holdout.held_out).sum()
        console.print(f"holdout, never trained on: {count:,} of {plan.layout.rows:,} rows", highlight=False)


def show_estimate(estimate: JobEstimate) -> None:
    """Print what a job needs, how long it takes, and the underlying assumptions."""
    from ..planning.text import FORECAST_COLUMNS, forecast_row

    facts = Table(box=None, show_header=False)
    for fact in estimate.facts:
        facts.add_row(*fact)
    console.print(facts)
    table = Table(*FORECAST_COLUMNS)
    for forecast in estimate.forecasts:
        table.add_row(*forecast_row(forecast))
    console.print(table)
    for line in estimate.assumptions:
        console.print(line, highlight=False)


def show_result(summary: dict[str, Any]) -> None:
    """Print the result of a run or a grid."""
    if "candidates" in summary:
        show_grid(summary)
    else:
        show_summary(summary)


PARTS = {"out_of_fold": "out-of-fold", "holdout": "holdout"}
MOST_SCORES = 5  # of metrics beside the folds
MOST_WIDTH = 1000  # of a table before it is fitted to the console


def show_grid(grid: dict[str, Any]) -> None:
    """Print the out-of-fold scores of a grid's candidates, as many as the console is wide enough for."""
    names = brief_scores(best_of(grid)["out_of_fold"], MOST_SCORES)
    first = grid["metric"]
    console.print(fitting(partial(candidates_table, grid), [first, *(name for name in names if name != first)]))


def candidates_table(grid: dict[str, Any], names: Sequence[str]) -> Table:
    """The scores in `names` of each candidate, with their standard deviation over the folds."""
    table = Table("candidate", *names, "")
    for candidate in grid["candidates"]:
        cells = [_with_spread(candidate["out_of_fold"], candidate["spread"], name) for name in names]
        remark = "diverged" if "failure" in candidate else "best" * (candidate["name"] == grid["best"])
        table.add_row(candidate["name"], *cells, remark)
    return table


def best_of(grid: dict[str, Any]) -> dict[str, Any]:
    """The best candidate of a grid."""
    return next(one for one in grid["candidates"] if one["name"] == grid["best"])


def show_ensemble(summary: dict[str, Any]) -> None:
    """Print the weights and scores of an ensemble's members, and the scores of the ensemble."""
    names = brief_scores(dict.fromkeys(("loss", *summary["out_of_fold"])), MOST_SCORES)
    console.print(fitting(partial(ensemble_table, summary), names))
    console.print(metrics_table(summary))


def ensemble_table(summary: dict[str, Any], names: Sequence[str]) -> Table:
    """The weight and the out-of-fold scores in `names` of each member, and those of the ensemble."""
    weighted = summary["method"] != "stack"
    table = Table("member", *(["weight"] if weighted else []), *names)
    for member in summary["members"]:
        scores = member["out_of_fold"]
        cells = [score_text(scores[name]) if name in scores else "" for name in names]
        table.add_row(member["name"], *([f"{member['weight']:.3f}"] if weighted else []), *cells)
    table.add_row(
        "ensemble", *([""] if weighted else []), *(score_text(summary["out_of_fold"][name]) for name in names)
    )
    return table


def _with_spread(scores: dict[str, float], spread: dict[str, dict[str, float]], name: str) -> str:
    """A score with its standard deviation over the folds, if all of them have it."""
    value = score_text(scores[name]) if name in scores else ""
    return f"{value} ± {score_text(spread[name]['std'])}" if name in spread and value else value


def show_summary(summary: dict[str, Any]) -> None:
    """Print a table of the folds with as many scores as the console is wide enough for, and all out-of-fold scores."""
    names = brief_scores(dict.fromkeys(("loss", *summary["out_of_fold"])), MOST_SCORES)
    console.print(fitting(partial(folds_table, summary), names))
    console.print(metrics_table(summary))


def fitting(table_of: Callable[[list[str]], Table], names: list[str]) -> Table:
    """The table of as many scores, the first ones, as the console is wide enough for."""
    table, wide = table_of(names), console.options.update(max_width=MOST_WIDTH)
    while len(names) > 1 and console.measure(table, options=wide).maximum > console.width:
        names = names[:-1]
        table = table_of(names)
    return table


def folds_table(summary: dict[str, Any], names: Sequence[str]) -> Table:
    """The scores in `names` of each fold, their mean and their standard deviation.

    The times are from the last epoch of each fold: the whole epoch, and the time its slowest rank waited for data.
    """
    table = Table("fold", "rows", "epochs", *names, "epoch, s", "data\nwait, s")
    for fold in summary["folds"]:
        cells = [score_text(fold[name]) if name in fold else "" for name in names]
        waited = max(rank["data_wait"] for rank in fold["ranks"])
        cells += [f"{fold['seconds']:.1f}", f"{waited:.2f}"]
        table.add_row(str(fold["fold"]), f"{fold['rows']:,.0f}", f"{fold['epoch']:.0f}", *cells)
    spread = summary["spread"]
    for row in ("mean", "std"):
        table.add_row(row, "", "", *(score_text(spread[name][row]) if name in spread else "" for name in names))
    return table


def show_source_scores(scored: dict[str, Any]) -> None:
    """Print the metrics of predictions of a source whose labels are known."""
    table = Table("metric", f"{scored['rows']:,} rows with labels", "95% CI")
    for name in in_usual_order(scored["scores"]):
        table.add_row(name, score_text(scored["scores"][name]), _interval(scored["intervals"], name))
    console.print(table)


def _interval(intervals: dict[str, tuple[float, float]], name: str) -> str:
    """The interval of a score; empty if it has none."""
    low, high = intervals.get(name, (nan, nan))
    return "" if isnan(low) else f"{score_text(low)} to {score_text(high)}"


def metrics_table(summary: dict[str, Any]) -> Table:
    """The metrics of merged predictions with their intervals, and those of the baseline, which ignores the features."""
    parts = [part for part in PARTS if part in summary]
    headings = [f"{PARTS[part]}, {summary[f'{part}_rows']:,} rows" for part in parts]
    baseline = summary.get("baseline", {})  # runs of earlier versions have none
    what = summary.get("baseline_is", "the classes' frequencies" if "accuracy" in baseline else "the mean")
    columns = [column for heading in headings for column in (heading, "95% CI")]
    table = Table("metric", *columns, *([f"baseline: {what.removeprefix('the ')}"] if baseline else []))
    for name in in_usual_order(summary["out_of_fold"]):
        cells = []
        for part in parts:
            shown = name in summary[part]
            cells += (
                [score_text(summary[part][name]), _interval(summary[f"{part}_intervals"], name)] if shown else ["", ""]
            )
        table.add_row(name, *cells, *([score_text(baseline[name]) if name in baseline else ""] if baseline else []))
    return table
