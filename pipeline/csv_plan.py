"""What to write, decided before anything is written: schema, statistics, layout, and which piece feeds which shard.

Pure: requests and scans in, plan out. The plan is stored as JSON, so that a conversion that was killed goes on from
the same decision.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from ..storage.errors import UsageError, check_choice, did_you_mean
from ..storage.format import Layout, Schema, Source, Statistics, choose_layout
from .csv_scan import LabelScan, Moments, PieceScan
from .csv_split import Piece

CLASS_LIMIT = 100  # whole numbers with no more distinct values than this are taken for classes
DTYPES = ("auto", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64")
TASKS = ("auto", "classification", "regression")
ON_ERROR = ("stop", "skip")


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for.

    `features` fixes the columns of `x`, as a test set must have those of its run; `ignore` are columns that may
    stand beside them and are left out.
    """

    sources: tuple[Source, ...]
    label: str | None = None
    id: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "auto"
    task: str = "auto"
    features: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    on_error: str = "stop"

    def __post_init__(self) -> None:
        check_choice("--on-error", self.on_error, ON_ERROR)
        check_choice("--dtype", self.dtype, DTYPES)
        check_choice("--task", self.task, TASKS)


@dataclass(frozen=True)
class PlannedPiece:
    """A piece, the position of its first row in the whole, its rows, and its faulty rows that are left out."""

    piece: Piece
    header: tuple[str, ...]
    first_row: int
    rows: int
    left_out: int


@dataclass(frozen=True)
class ConvertPlan:
    """All that a conversion will do."""

    layout: Layout
    schema: Schema
    statistics: Statistics
    pieces: tuple[PlannedPiece, ...]
    left_out: int = 0
    """Faulty rows of all sources that are left out."""
    request: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        pieces = (
            PlannedPiece(
                Piece(**item["piece"]), tuple(item["header"]), item["first_row"], item["rows"], item["left_out"]
            )
            for item in value["pieces"]
        )
        return cls(
            Layout(**value["layout"]),
            Schema.from_json(value["schema"]),
            Statistics.from_json(value["statistics"]),
            tuple(pieces),
            value["left_out"],
            value["request"],
        )

    def pieces_of(self, shard: int) -> tuple[PlannedPiece, ...]:
        """The pieces that hold rows of a shard, in order."""
        start, stop = self.layout.shard_range(shard)
        return tuple(p for p in self.pieces if p.first_row < stop and p.first_row + p.rows > start)


def choose_features(request: ConvertRequest, headers: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The columns of `x`: all but label and id, in the first source's order, or those that the request fixes.

    Raises UsageError for a column that is not there, and for sources whose columns differ.
    """
    for name, option in ((request.label, "--label"), (request.id, "--id")):
        if name and name not in headers[0]:
            raise UsageError(f"{option}: {request.sources[0].path} has no column «{name}»{suggest(name, headers[0])}")
    aside = {request.label, request.id, *request.ignore}
    features = request.features or tuple(name for name in headers[0] if name not in aside)
    for source, header in zip(request.sources, headers, strict=True):
        missing = [name for name in features if name not in header]
        extra = [name for name in header if name not in features and name not in aside]
        if missing or extra:
            raise UsageError(f"{source.path} has other columns than expected: {_differences(missing, extra, header)}")
    if not features:
        raise UsageError(f"{request.sources[0].path} has no columns besides the label and the id")
    return features


def suggest(name: str, names: Sequence[str]) -> str:
    """The nearest of the columns' names, or the first of them, for the end of a message."""
    if hint := did_you_mean(name, names):
        return f"; {hint.strip()}"
    shown = ", ".join(f"«{n}»" for n in names[:8])
    return f"; its columns are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _differences(missing: Sequence[str], extra: Sequence[str], header: Sequence[str]) -> str:
    parts = []
    for kind, names in (("missing", missing), ("not known", extra)):
        if names:
            shown = ", ".join(f"«{name}»" for name in names[:5])
            parts.append(f"{kind}: {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    hint = suggest(missing[0], header) if len(missing) == 1 else ""
    return "; ".join(parts) + hint


def plan_conversion(
    request: ConvertRequest,
    features: tuple[str, ...],
    pieces: Sequence[Piece],
    headers: Sequence[tuple[str, ...]],
    scans: Sequence[PieceScan],
    total: PieceScan,
) -> ConvertPlan:
    """Decide everything. `headers` and `scans` are one a piece, `total` is the scans merged."""
    assert total.moments is not None
    schema = choose_schema(request, features, total)
    layout = choose_layout(total.rows, schema.arrays()[0].row_bytes)
    planned, first = [], 0
    for piece, header, scan in zip(pieces, headers, scans, strict=True):
        if scan.rows:  # a piece may hold blank lines alone
            planned.append(PlannedPiece(piece, header, first, scan.rows, scan.left_out))
            first += scan.rows
    return ConvertPlan(
        layout, schema, choose_statistics(schema, total), tuple(planned), total.left_out, asdict(request)
    )


def choose_schema(request: ConvertRequest, features: tuple[str, ...], total: PieceScan) -> Schema:
    """Dtypes, shape and classes from what the whole data holds."""
    assert total.moments is not None
    shape = request.shape or (len(features),)
    if int(np.prod(shape)) != len(features):
        raise UsageError(
            f"--shape {','.join(map(str, shape))} has {int(np.prod(shape)):,} values, but there are {len(features):,} "
            "feature columns (all columns besides the label and the id); give a shape whose product is that number"
        )
    task, y_dtype, classes = choose_label(request, total.label)
    return Schema(
        features=features,
        sample_shape=shape,
        x_dtype=choose_dtype(request.dtype, total),
        label=request.label,
        task=task,
        y_dtype=y_dtype,
        classes=classes,
        key=request.id,
        key_width=total.key_width if total.key_kind != "integer" and request.id else None,
    )


def choose_dtype(asked: str, total: PieceScan) -> str:
    """The narrowest dtype that holds every feature exactly, or the one asked for if it can.

    Asking for a float type consents to its rounding; asking for an integer type does not.
    """
    assert total.moments is not None
    low, high = total.moments.minimum.min(), total.moments.maximum.max()
    if asked in ("float32", "float64"):
        return asked
    fitting = [name for name in DTYPES[1:8] if np.iinfo(name).min <= low and high <= np.iinfo(name).max] or ["int64"]
    if asked == "auto":
        return fitting[0] if total.integers else "float32" if total.single else "float64"
    if not total.integers:
        raise UsageError(f"--dtype {asked}: there are values with decimals; use auto, float32 or float64")
    if asked not in fitting:
        raise UsageError(
            f"--dtype {asked} cannot hold {low:.0f} to {high:.0f}; {fitting[0]} can (so would auto choose)"
        )
    return asked


def choose_label(request: ConvertRequest, label: LabelScan | None) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Task, dtype of `y` and classes."""
    if label is None:
        return None, None, ()
    few = label.distinct is not None and (label.kind == "text" or len(label.distinct) <= CLASS_LIMIT)
    task = request.task
    if task == "auto":
        task = "classification" if label.kind == "text" or (label.kind == "integer" and few) else "regression"
    if task == "regression":
        if label.kind == "text":
            raise UsageError(f"--task regression: the label «{request.label}» holds text; use classification")
        return task, "float64", ()
    if label.distinct is None:
        raise UsageError(
            f"--task classification: the label «{request.label}» has too many distinct values to be classes"
        )
    classes = sorted(label.distinct, key=(lambda v: (float(v), v)) if label.kind != "text" else str)
    if len(classes) < 2:
        raise UsageError(f"the label «{request.label}» has one value, «{classes[0]}»; a classifier needs two")
    return task, np.min_scalar_type(len(classes) - 1).name, tuple(classes)


def choose_statistics(schema: Schema, total: PieceScan) -> Statistics:
    """Merge columns into channels (the first axis of the sample) and take the label's along."""
    assert total.moments is not None
    channels = schema.sample_shape[0]
    groups = [np.arange(len(schema.features)).reshape(channels, -1)[c] for c in range(channels)]
    merged = [_pool(total.moments, columns) for columns in groups]
    y = total.label.moments if schema.task == "regression" and total.label else None
    return Statistics(
        mean=tuple(m.mean.item() for m in merged),
        std=tuple(float(np.sqrt(m.squares.item() / m.count)) for m in merged),
        minimum=tuple(m.minimum.item() for m in merged),
        maximum=tuple(m.maximum.item() for m in merged),
        y_mean=y.mean.item() if y else None,
        y_std=float(np.sqrt(y.squares.item() / y.count)) if y else None,
    )


def _pool(moments: Moments, columns: np.ndarray) -> Moments:
    """The moments of several columns taken as one."""
    mean = moments.mean[columns].mean(keepdims=True)
    between = moments.count * np.square(moments.mean[columns] - mean).sum(keepdims=True)
    return Moments(
        moments.count * len(columns),
        mean,
        moments.squares[columns].sum(keepdims=True) + between,
        moments.minimum[columns].min(keepdims=True),
        moments.maximum[columns].max(keepdims=True),
    )
