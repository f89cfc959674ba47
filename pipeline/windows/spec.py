"""The request for windows over time series, and the samples that follow from it, decided before they are written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from ...storage.dataset import Dataset
from ...storage.errors import SourceError, UsageError, suggest
from ...storage.format.arrays import ArraySpec
from ...storage.format.layout import Layout, choose_layout
from ...storage.format.schema import Schema
from ...storage.format.windows import WINDOWED, WindowForm, Windows
from ..tables.options import TableOptions
from ..tables.spec.request import ConvertRequest
from ..target.labels import label_columns
from .series import Series


@dataclass(frozen=True)
class WindowRequest:
    """Windows of a `form` over the rows that `rows` asks for. With `ahead`, there are also samples whose targets are
    not known yet: every window is one."""

    rows: ConvertRequest
    form: WindowForm
    ahead: bool = False

    @classmethod
    def of(cls, request: ConvertRequest, options: TableOptions) -> Self | None:
        """The request that options ask for, or None if samples are rows. Raises UsageError for options that windows
        cannot have."""
        like = request.like and request.like.windows
        if options.window_of is None and like is None:
            if options.horizon is not None:
                raise UsageError(
                    f"--horizon {options.horizon}: only windows have a horizon; add --window-of ROWS, the length of a "
                    "window"
                )
            return None
        if request.like is not None and like is None:
            raise UsageError(
                f"--window-of {options.window_of}: the samples of --like are no windows; remove one of the options"
            )
        form = like or form_of(request, options)
        for option, given, own in (
            ("--window-of", options.window_of, form.length),
            ("--horizon", options.horizon, form.horizon),
        ):
            if given not in (None, own):
                raise UsageError(f"{option} {given}: that of --like is {own}; remove the option")
        return cls(rows_of(request, form), form)

    def to_json(self) -> dict[str, Any]:
        """What identifies the conversion; stored with it."""
        windows = {"window_of": self.form.length, "horizon": self.form.horizon, "ahead": self.ahead}
        return {**self.rows.to_json(), "labels": [self.form.label], "windows": windows}


def form_of(request: ConvertRequest, options: TableOptions) -> WindowForm:
    """The form of the windows that options ask for. Raises UsageError."""
    times, label = request.roles.get("time", ()), request.labels
    where = f"--window-of {options.window_of}"
    if not times:
        raise UsageError(f"{where} needs the column that orders the rows; add --time COLUMN")
    if len(label) != 1:
        raise UsageError(
            f"{where} needs one --label, whose next values are the targets, not {len(label)}; for several, convert "
            "once for each of them: the others are features then"
        )
    for option, given in (("--shape", request.shape), ("--shuffle", request.shuffle is not None)):
        if given:
            raise UsageError(f"{option} cannot be used with --window-of, which decides it; remove the option")
    if request.task not in ("auto", "regression"):
        raise UsageError(f"--task {request.task}: the targets of windows are numbers; remove the option")
    series = (*times, *request.roles.get("group", ()))
    if named := [name for name in series if name in request.features]:
        raise UsageError(
            f"--feature {named[0]}: the column says which rows are a window; to have it as a feature too, add a copy "
            "of it to the source"
        )
    if label[0] in request.categories or label[0] in (*request.dates, *series):
        raise UsageError(f"--label {label[0]}: the targets of windows are numbers; give the column no other meaning")
    groups = request.roles.get("group", ())
    return WindowForm(int(options.window_of or 0), options.horizon or 1, label[0], times[0], groups)


def rows_of(request: ConvertRequest, form: WindowForm) -> ConvertRequest:
    """The request for the rows of windows: the label is a feature, and rows without it are kept. Rows without a time
    have no place among the others, so they are invalid."""
    roles = dict(request.roles) | {"time": (form.time,)} | ({"group": form.groups} if form.groups else {})
    like = request.like and schema_of_rows(request.like)
    return replace(request, labels=(), task="auto", roles=roles, like=like, required=(form.time,))


def schema_of_rows(schema: Schema) -> Schema:
    """The schema of the rows that samples with this one are windows over. The label is the first feature."""
    shape = (len(schema.features),)
    return replace(schema, sample_shape=shape, labels=(), task=None, y_dtype=None, windows=None)


def check_label(rows: Schema, form: WindowForm) -> None:
    """Raise UsageError unless rows with this schema have the label of windows, as a number."""
    if form.label in rows.categories or form.label in rows.dates:
        raise UsageError(
            f"--label {form.label}: the column has text or dates, but the targets of windows are numbers; for numbers "
            f"such as $7.00, add --number {form.label}"
        )
    if form.label in rows.features:
        return
    if numbers := label_columns(form.label, rows.features):
        raise UsageError(
            f"--label {form.label}: the targets of windows are the next values of one number, but the column is a "
            f"vector; name one of its numbers, e.g. {numbers[0]}"
        )
    if form.label in rows.left_out:
        raise UsageError(f"--label {form.label}: the column was left out ({rows.left_out[form.label]})")
    raise UsageError(f"--label: the sources have no column '{form.label}'{suggest(form.label, rows.features)}")


def schema_of_samples(rows: Schema, form: WindowForm) -> Schema:
    """The schema of windows over rows with this one."""
    features = (form.label, *(name for name in rows.features if name != form.label))
    return replace(
        rows,
        features=features,
        sample_shape=(len(features), form.length),
        labels=form.labels,
        task="regression",
        y_dtype="float64",
        windows=form,
    )


@dataclass(frozen=True)
class SamplesSpec:
    """The samples that are written, as in `target/claim.py`. What is skipped are rows."""

    layout: Layout
    schema: Schema
    request: dict[str, Any]
    windows: Windows
    source_bytes: int
    skipped: int = 0
    skipped_rows: tuple[int, ...] = ()

    @property
    def stored(self) -> tuple[ArraySpec, ...]:
        """The arrays that are stored for samples."""
        return stored_arrays(self.schema)

    def describe(self, runs: str) -> Mapping[str, Any]:
        """The windows in the manifest, with the hash of the file of `runs`."""
        return {**self.windows.to_json(), "runs": runs}


def stored_arrays(schema: Schema) -> tuple[ArraySpec, ...]:
    """The arrays that are stored for samples with this schema; the others are computed from the rows."""
    return tuple(spec for spec in schema.arrays() if spec.name not in WINDOWED)


def specify_samples(request: WindowRequest, rows: Dataset, series: Series, known: np.ndarray) -> SamplesSpec:
    """Decide the samples. `known`, (rows,) bool, says which rows have the label. Raises SourceError if there is no
    sample."""
    form, schema = request.form, schema_of_samples(rows.schema, request.form)
    runs, samples = series.runs(form, None if request.ahead else known)
    if not samples:
        raise SourceError(_too_short(request, series))
    windows = Windows(form, rows.schema.features.index(form.label), rows.identity, runs)
    layout = choose_layout(samples, schema.arrays()[0].row_bytes)
    size = sum(source.bytes for source in request.rows.sources)
    return SamplesSpec(layout, schema, request.to_json(), windows, size, rows.left_out)


def _too_short(request: WindowRequest, series: Series) -> str:
    form, longest = request.form, int(np.diff(series.starts).max())
    needed = form.length if request.ahead else form.span
    what = "a window alone has" if request.ahead else f"a window of {form.length:,} and {form.horizon:,} targets are"
    where = request.rows.sources[0].path
    if longest < needed:
        remedy = "use shorter windows, or check the columns of --group"
        if request.ahead:  # windows are those of the model
            remedy = f"give at least the last {needed:,} rows of a series, also those that the model was trained on"
        return f"{where}: the longest series has {longest:,} rows, but {what} {needed:,}; {remedy}"
    return f"{where}: no window has all of its targets, because '{form.label}' is missing too often; fill some of them"
