"""The meaning of the columns: features, labels, roles, and what kind of samples they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeVar

import numpy as np

from .arrays import TABLE, ArraySpec, SideColumn
from .dense import DenseTarget
from .images import ImageForm
from .sequences import LENGTH, TokenForm
from .windows import WindowForm

Score = TypeVar("Score")
BEHIND_SHARE = 1 / 4  # of the bytes of `x`: other arrays up to this size are stored behind it once more
SMALLEST_PROBABILITY = 1e-7  # in the log loss: a row costs at most 16.1
THRESHOLD = 0.5  # the probability from which on a row is said to have a label of several

NEWER = frozenset({"tokens", "windows", "dense", "encoded", "stacked"})
"""The fields of a schema that earlier versions do not have."""


@dataclass(frozen=True)
class Schema:
    """The meaning of the columns.

    `features` are the source columns of `x` in order, `labels` those of `y`. `task` is "classification" (one label),
    "multilabel" (several labels that are 0 or 1), "regression" (one or several labels), "segmentation" (a mask) or None
    (no label). `classes` are the values of the label in the order of their codes. If the only label is a vector, a
    mask or an image, `dense` describes it, and `classes` is empty. `key` is the user's id column, stored as int64 or,
    if `key_width` is set, as that many bytes of UTF-8 per row, padded with zeros.

    Text features are stored as the index of their value in `categories`, where "" is the missing value, and dates as
    "days" or "seconds" since 1970, according to `dates`. Missing numbers and dates are NaN. Image samples have an
    `image` form and no features; if they are `encoded`, image files are stored instead of their pixels.

    `table` describes the columns that a model gets beside an image: their features, categories and dates. They are
    stored in an array of that name, (rows, features) float64.

    `roles` names the columns with the role "group", "time", "fold", "weight" or "keep": those in `beside`, and features
    that also have a role. `left_out` names the columns that were dropped automatically, with the reason. `formats` says
    how the dates or amounts of columns are written in the source, unless as usual.

    If samples are sequences of token ids, `tokens` describes them, and the only feature is the column of theirs. With
    `windows`, samples are windows over the rows of time series, (features, length), and the first feature is the past
    of the label. If the last features are predictions of runs, `stacked` describes them.
    """

    features: tuple[str, ...]
    sample_shape: tuple[int, ...]
    x_dtype: str
    labels: tuple[str, ...] = ()
    task: str | None = None
    y_dtype: str | None = None
    classes: tuple[str, ...] = ()
    key: str | None = None
    key_width: int | None = None
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)
    image: ImageForm | None = None
    table: Schema | None = None
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    beside: tuple[SideColumn, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    tokens: TokenForm | None = None
    windows: WindowForm | None = None
    dense: DenseTarget | None = None
    encoded: bool = False
    stacked: StackForm | None = None

    @property
    def measured(self) -> str:
        """The array that statistics describe: of sequences their lengths, since ids have no mean."""
        return LENGTH if self.tokens else "x"

    @property
    def channels(self) -> int:
        """The number of channels that statistics describe."""
        return 1 if self.tokens else self.sample_shape[0]

    @property
    def tabular(self) -> Schema:
        """The schema of the columns: those beside the images if there are any, otherwise of `x`."""
        return self.table or self

    @property
    def gaps_in(self) -> str:
        """The array of the features that may have missing values; images have none."""
        return TABLE if self.table else "x"

    @property
    def outputs(self) -> int:
        """Number of model outputs per row, or per pixel of a mask or an image: one per class, per label, per number of
        a vector, or per channel."""
        if self.dense:
            return len(self.dense.classes) or self.dense.shape[0]
        return len(self.classes) or len(self.labels) or 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of a model's outputs per row: (outputs,), or (outputs, height, width) for masks and images."""
        if self.dense:
            return (self.outputs, *self.dense.shape) if self.dense.classes else self.dense.shape
        return (self.outputs,)

    @property
    def target_name(self) -> str | None:
        """What targets and predictions are called if they are pictures: "masks" or "images"; None for others."""
        if self.dense is None or len(self.dense.shape) == 1:
            return None
        return "masks" if self.dense.classes else "images"

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of a row of `y`."""
        if self.dense:
            return self.dense.shape
        return (len(self.labels),) if len(self.labels) > 1 else ()

    @property
    def probabilities(self) -> bool:
        """Whether predictions are probabilities, per class or per label, rather than values."""
        return self.task in ("classification", "multilabel")

    def by_label(self, name: str, values: Iterable[Score]) -> dict[str, Score]:
        """Name a score per label: `rmse` for a single label, `rmse/price` if there are several."""
        names = [name] if len(self.labels) == 1 else [f"{name}/{label}" for label in self.labels]
        return dict(zip(names, values, strict=True))

    def arrays(self) -> tuple[ArraySpec, ...]:
        """Return the arrays of a dataset with this schema."""
        specs = [ArraySpec("x", self.x_dtype, self.sample_shape, self.encoded)]
        if self.y_dtype:
            specs.append(ArraySpec("y", self.y_dtype, self.target_shape))
        specs.append(ArraySpec("id", "int64"))
        if self.tokens:
            specs.append(ArraySpec(LENGTH, np.min_scalar_type(self.sample_shape[0]).name))
        if self.table:
            specs.append(ArraySpec(TABLE, self.table.x_dtype, self.table.sample_shape))
        return (*specs, *(column.spec() for column in self.named))

    @property
    def row_bytes(self) -> int:
        """The bytes of a row by which blocks and shards are sized: those of `x`, and of a target with a shape."""
        sized = ("x", "y") if self.dense else ("x",)
        return sum(spec.row_bytes for spec in self.arrays() if spec.name in sized)

    @property
    def behind(self) -> tuple[str, ...]:
        """The arrays whose blocks are also stored behind those of `x`: all that training reads beside it, if that is
        small, so that one read gets it."""
        specs = {spec.name: spec for spec in self.arrays()}
        names = tuple(name for name in ("y", "id", TABLE, self.weights) if name in specs)
        small = sum(specs[name].row_bytes for name in names) <= specs["x"].row_bytes * BEHIND_SHARE
        return names if small else ()

    @property
    def named(self) -> tuple[SideColumn, ...]:
        """All side columns: the key, if there is one, and those in `beside`."""
        if self.key is None:
            return self.beside
        kind = "integer" if self.key_width is None else "text"
        return (SideColumn(self.key, "key", kind, self.key_width or 0), *self.beside)

    @property
    def widths(self) -> dict[str, int]:
        """The bytes per row of the arrays of text."""
        return {column.array: column.width for column in self.named if column.kind == "text"}

    @property
    def hits(self) -> dict[str, int]:
        """The top-k accuracies of a classification, each with its k. Top-3 accuracy says little about four classes or
        fewer, and is left out."""
        return {"accuracy": 1, "top3": 3} if len(self.classes) > 4 else {"accuracy": 1}

    @property
    def weights(self) -> str | None:
        """The array of the sample weights, if a column has that role."""
        return next((column.array for column in self.beside if column.name == self.role("weight")), None)

    def role(self, name: str) -> str | None:
        """The first column with that role, or None."""
        return next(iter(self.roles.get(name, ())), None)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tuples = {name: tuple(value[name]) for name in ("features", "labels", "sample_shape", "classes")}
        categories = {name: tuple(values) for name, values in value["categories"].items()}
        image = value["image"] and ImageForm.from_json(value["image"])
        roles = {name: tuple(columns) for name, columns in value.get("roles", {}).items()}
        beside = tuple(SideColumn(**column) for column in value.get("beside", ()))
        table = cls.from_json(value["table"]) if value.get("table") else None
        tokens = TokenForm.from_json(value["tokens"]) if value.get("tokens") else None
        windows = WindowForm.from_json(value["windows"]) if value.get("windows") else None
        dense = DenseTarget.from_json(value["dense"]) if value.get("dense") else None
        decoded = {"categories": categories, "image": image, "table": table, "roles": roles, "beside": beside}
        stacked = StackForm.from_json(value["stacked"]) if value.get("stacked") else None
        newer = {"tokens": tokens, "windows": windows, "dense": dense, "stacked": stacked}
        return cls(**{**value, **tuples, **decoded, **newer})

    def to_json(self) -> dict[str, Any]:
        """The schema as JSON, as earlier versions wrote it unless something in it is newer."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if name not in NEWER or value}


@dataclass(frozen=True)
class StackForm:
    """Where the last features of rows come from: `columns` are the predictions of `runs`, whose results have the hashes
    `stamps`, for rows with the schema `base`. If they are the `only` features, the others were left out."""

    runs: tuple[str, ...]
    stamps: tuple[str, ...]
    columns: tuple[str, ...]
    only: bool
    base: Schema

    def features_of(self, predictions: np.ndarray) -> np.ndarray:
        """The predictions of a run as features, (rows, outputs): probabilities as log-odds, which a linear model can
        weigh, and values as they are. NaN stays NaN."""
        flat = predictions.reshape(len(predictions), -1)
        if not self.base.probabilities:
            return flat
        clipped = np.clip(flat.astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
        odds: np.ndarray = (np.log(clipped) - np.log1p(-clipped)).astype(flat.dtype)
        return odds

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = {name: tuple(value[name]) for name in ("runs", "stamps", "columns")}
        return cls(**lists, only=value["only"], base=Schema.from_json(value["base"]))
