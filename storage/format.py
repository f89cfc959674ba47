"""The format of a dataset on disk, as plain values: layout, arrays, schema, statistics, manifest.

Nothing here reads or writes. The manifest is JSON and grows with the number of shards; anything that grows with the
number of blocks is stored in small Zarr arrays beside it, so that a dataset of a billion rows opens quickly.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

from .errors import ForeignError
from .sequences import LENGTH, TokenForm
from .windows import WindowForm

if TYPE_CHECKING:
    from .moments.moments import Moments  # whose kernels load numba, which few processes that read a schema need

Score = TypeVar("Score")
Values = TypeVar("Values")
FORMAT = 3
MANIFEST = "manifest.json"
WORK = ".work"
LEFT_OUT = "left_out.csv"  # the invalid rows of the sources, if any were skipped
PLANS = "splits"  # the folder of the plans stored with a dataset, by name
PLAN_OF_RUNS = "runs"  # the plan of a dataset of predictions: that of the runs
IMAGE, TABLE = "image", "table"  # the inputs of a model that gets columns beside an image; the array of those is TABLE

BLOCK_BYTES = 2 << 20
SHARD_BYTES = 64 << 20
MINIMUM_BLOCKS = 256  # 8 lanes of 32 blocks
SMALL_BLOCK_BYTES = 64 << 10
FEWEST_BLOCKS = 64  # 8 lanes of 8 blocks, which are shuffled as one
SMALL_BLOCK_ROWS = 16
FEWEST_LANES = 8
MINIMUM_SHARDS = 8
BEHIND_SHARE = 1 / 4  # of the bytes of `x`: other arrays up to this size are stored behind it once more


@dataclass(frozen=True)
class Layout:
    """How rows are divided: `block_rows` rows per block, `shard_blocks` blocks per shard; the last may be shorter.

    `parts` are the numbers of rows of parts that were written at different times, or come from different files. Each
    part begins with a new block and a new shard, so the last block and the last shard of any part may be shorter.
    Without `parts`, all rows are one part.
    """

    rows: int
    block_rows: int
    shard_blocks: int
    parts: tuple[int, ...] = ()

    @property
    def shard_rows(self) -> int:
        return self.block_rows * self.shard_blocks

    @property
    def blocks(self) -> int:
        return self._begins.blocks[-1]

    @property
    def shards(self) -> int:
        return self._begins.shards[-1]

    @cached_property
    def _begins(self) -> _Begins:
        rows = self.parts or (self.rows,)
        blocks = [math.ceil(part / self.block_rows) for part in rows]
        shards = [math.ceil(part / self.shard_rows) for part in rows]
        return _Begins(*([0, *accumulate(counts)] for counts in (rows, blocks, shards)))

    def part_of(self, shard: int) -> int:
        """The part that a shard belongs to."""
        return bisect_right(self._begins.shards, shard) - 1

    def of_part(self, part: int) -> Layout:
        """The layout of a part by itself."""
        begins = self._begins.rows
        return Layout(begins[part + 1] - begins[part], self.block_rows, self.shard_blocks)

    def shard_in_part(self, shard: int) -> int:
        """The number of a shard among those of its part."""
        return shard - self._begins.shards[self.part_of(shard)]

    def shard_of(self, block: int) -> int:
        """The shard that contains a block."""
        part = bisect_right(self._begins.blocks, block) - 1
        return self._begins.shards[part] + (block - self._begins.blocks[part]) // self.shard_blocks

    def block_range(self, block: int) -> tuple[int, int]:
        """The first row of a block, and the row after its last."""
        part = bisect_right(self._begins.blocks, block) - 1
        start = self._begins.rows[part] + (block - self._begins.blocks[part]) * self.block_rows
        return start, min(start + self.block_rows, self._begins.rows[part + 1])

    def joined(self, blocks: Sequence[int]) -> list[slice]:
        """The slice of each block's rows in a buffer that holds the rows of `blocks` one block after another."""
        ends = [0, *accumulate(stop - start for start, stop in map(self.block_range, blocks))]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the row after its last."""
        part = self.part_of(shard)
        start = self._begins.rows[part] + (shard - self._begins.shards[part]) * self.shard_rows
        return start, min(start + self.shard_rows, self._begins.rows[part + 1])

    def blocks_of(self, shard: int) -> range:
        """The blocks of a shard."""
        part = self.part_of(shard)
        first = self._begins.blocks[part] + (shard - self._begins.shards[part]) * self.shard_blocks
        return range(first, min(first + self.shard_blocks, self._begins.blocks[part + 1]))

    def block_starts(self) -> np.ndarray:
        """The first row of every block, (blocks,) int64."""
        return np.concatenate(
            [np.arange(start, stop, self.block_rows, dtype=np.int64) for start, stop in pairwise(self._begins.rows)]
        )

    def block_sizes(self) -> np.ndarray:
        """The number of rows of every block, (blocks,) int64."""
        return np.diff(self.block_starts(), append=self.rows)

    def blocks_at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks that contain the given rows, and the rows' places in them, each (rows,) int64."""
        begins = self._begins
        parts = np.searchsorted(begins.rows, rows, side="right") - 1
        blocks, places = np.divmod(rows - np.array(begins.rows)[parts], self.block_rows)
        return blocks + np.array(begins.blocks)[parts], places

    def to_json(self) -> dict[str, Any]:
        """The layout as JSON, as earlier versions wrote it unless there are parts."""
        return {name: value for name, value in asdict(self).items() if name != "parts" or value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "parts": tuple(value.get("parts", ()))})


class _Begins(NamedTuple):
    """The first row, block and shard of each part, and after them the numbers of all rows, blocks and shards."""

    rows: list[int]
    blocks: list[int]
    shards: list[int]


def choose_layout(rows: int, row_bytes: int, padded: bool = False) -> Layout:
    """Choose blocks of about 2 MB and shards of about 64 MB of `x`, or smaller ones for a small dataset.

    There are at least 256 blocks, so that each of 8 lanes has 32 to mix, unless that would make them smaller than
    64 KB, or if rows are `padded` 2 MB, since padding is stored in next to no space. In that case there are up to 64
    blocks of 16 rows or more: a dataset this small is shuffled as a whole. There are at least 8 shards, so that several
    workers can share the work.
    """
    fewest = max(math.ceil(rows / FEWEST_BLOCKS), min(SMALL_BLOCK_ROWS, rows // FEWEST_LANES))
    small = min(fewest, (BLOCK_BYTES if padded else SMALL_BLOCK_BYTES) // row_bytes)
    block_rows = max(1, min(BLOCK_BYTES // row_bytes, max(rows // MINIMUM_BLOCKS, small)))
    return layout_of_blocks(rows, row_bytes, block_rows)


def layout_of_blocks(rows: int, row_bytes: int, block_rows: int, parts: tuple[int, ...] = ()) -> Layout:
    """Choose shards of about 64 MB of `x` for blocks of so many rows; at least 8 of them if there are enough blocks."""
    blocks = math.ceil(rows / block_rows)
    most = math.ceil(blocks / MINIMUM_SHARDS)
    if math.ceil(blocks / most) < MINIMUM_SHARDS:  # of a few blocks
        most = max(1, blocks // MINIMUM_SHARDS)
    shard_blocks = min(math.ceil(SHARD_BYTES / (block_rows * row_bytes)), most)
    return Layout(rows, block_rows, shard_blocks, parts)


@dataclass(frozen=True)
class ArraySpec:
    """One array of a dataset. All arrays are divided at the same rows; each has its own row shape."""

    name: str
    dtype: str
    row_shape: tuple[int, ...] = ()
    encoded: bool = False
    """Whether rows are stored as image files, from which they are decoded when they are read."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of a row as stored: an image file has none."""
        return () if self.encoded else self.row_shape

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.row_shape)

    def empty(self, rows: int) -> np.ndarray:
        """Return an uninitialised buffer for `rows` rows."""
        return np.empty((rows, *self.row_shape), self.dtype)

    def to_json(self) -> dict[str, Any]:
        """As JSON, as earlier versions wrote it unless its rows are image files."""
        return {name: value for name, value in vars(self).items() if name != "encoded" or value}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(value["name"], value["dtype"], tuple(value["row_shape"]), value.get("encoded", False))


@dataclass(frozen=True)
class ImageForm:
    """How image files become samples.

    `size` is (height, width); `color` is "rgb" or "gray"; `fit` is "pad", "crop" or "stretch"; `background`, behind
    transparent pixels and in the padding, is "white" or "black"; `dtype` is "uint8" or "uint16". `pixel_range` are the
    values that become black and white in images with more than 8 bits. If it is `strict`, images of which pages or bits
    would be lost are invalid.
    """

    size: tuple[int, int]
    color: str = "rgb"
    fit: str = "pad"
    background: str = "white"
    dtype: str = "uint8"
    pixel_range: tuple[float, float] | None = None
    strict: bool = False

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return (3 if self.color == "rgb" else 1, *self.size)

    @property
    def ground(self) -> int:
        """The background as an 8-bit value."""
        return 255 if self.background == "white" else 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        limits = value.get("pixel_range")
        return cls(**{**value, "size": tuple(value["size"]), "pixel_range": limits and tuple(limits)})


IGNORED = 255
"""The code in a mask of pixels that count for nothing: the padding, and those that the user leaves out."""


@dataclass(frozen=True)
class DenseTarget:
    """A target of many numbers per row, all under one label. `shape` is that of a row of `y`: (n,) for a vector,
    (height, width) for a mask, (channels, height, width) for an image. Of a mask, `classes` are the pixel values that
    occur, in the order of their codes, and `ignored` those that do not count."""

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """The number of pixels of a mask or an image; 1 for a vector."""
        return math.prod(self.shape[-2:]) if len(self.shape) > 1 else 1

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(tuple(value["shape"]), tuple(value["classes"]), tuple(value["ignored"]))


SMALLEST_PROBABILITY = 1e-7  # in the log loss: a row costs at most 16.1
THRESHOLD = 0.5  # the probability from which on a row is said to have a label of several
NO_DATE = np.iinfo(np.int64).min  # as in NumPy's NaT


@dataclass(frozen=True)
class SideColumn:
    """A source column that is not a feature, stored in a separate array.

    `kind`: "integer", "number" (missing: NaN), "days", "seconds", "microseconds" or "nanoseconds" since 1970 (missing:
    NO_DATE), or "text", at most `width` bytes of UTF-8 padded with zeros (missing: empty).
    """

    name: str
    array: str
    kind: str
    width: int = 0

    def spec(self) -> ArraySpec:
        """The array that stores this column."""
        if self.kind == "text":
            return ArraySpec(self.array, "uint8", (self.width,))
        return ArraySpec(self.array, "float64" if self.kind == "number" else "int64")


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


def x_of(arrays: Mapping[str, Values]) -> Values | dict[str, Values]:
    """The features of rows, from the arrays of a dataset by name: `x`, or a dict of images and the columns beside
    them."""
    return {IMAGE: arrays["x"], TABLE: arrays[TABLE]} if TABLE in arrays else arrays["x"]


def keys_of(stored: np.ndarray) -> list[Any]:
    """Decode the user's keys from their stored form: integers (rows,), or UTF-8 (rows, width)."""
    if stored.ndim == 2:
        return [bytes(row).rstrip(b"\0").decode() for row in stored]
    return list(stored)


@dataclass(frozen=True)
class Statistics:
    """Per channel of `x` (the first axis of a sample): mean, standard deviation, minimum, maximum, number of missing
    values, and the median if it was computed.

    `y_mean` and `y_std` are the mean and standard deviation of each regression target, and `class_rows` the number of
    rows of each class, where they were counted. `weight` is the mean sample weight; with sample weights, means and
    standard deviations are weighted. `table` are the statistics of the columns beside images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    missing: tuple[int, ...] = ()
    y_mean: tuple[float, ...] = ()
    y_std: tuple[float, ...] = ()
    median: tuple[float, ...] = ()
    class_rows: tuple[int, ...] = ()
    weight: float = 1.0
    table: Statistics | None = None

    @property
    def tabular(self) -> Statistics:
        """The statistics of the columns: those beside the images if there are any, otherwise of `x`."""
        return self.table or self

    @classmethod
    def of(
        cls,
        features: Moments,
        targets: Moments | None,
        missing: Sequence[int] | None = None,
        median: Sequence[float] = (),
        class_rows: Sequence[int] = (),
        weight: float = 1.0,
        table: Statistics | None = None,
    ) -> Self:
        """Compute statistics from the moments of the features and of the regression targets. A channel without values
        has the range 0 to 0. `missing`, if given, replaces the number of NaN values."""
        some = features.count > 0
        return cls(
            mean=tuple(features.mean.tolist()),
            std=tuple(features.std().tolist()),
            minimum=tuple(np.where(some, features.minimum, 0.0).tolist()),
            maximum=tuple(np.where(some, features.maximum, 0.0).tolist()),
            missing=tuple(features.missing.astype(int).tolist() if missing is None else missing),
            y_mean=tuple(targets.mean.tolist()) if targets else (),
            y_std=tuple(targets.std().tolist()) if targets else (),
            median=tuple(median),
            class_rows=tuple(class_rows),
            weight=weight,
            table=table,
        )

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = {name: tuple(found) for name, found in value.items() if name not in ("weight", "table")}
        table = cls.from_json(value["table"]) if value.get("table") else None
        return cls(**lists, weight=value.get("weight", 1.0), table=table)


@dataclass(frozen=True)
class Source:
    """A source file at the time it was read. `partitions` are the columns that its folders give, such as `day=mon`."""

    path: str
    bytes: int
    mtime_ns: int
    partitions: dict[str, str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The source as JSON, as earlier versions wrote it unless there are partitions."""
        return {name: value for name, value in asdict(self).items() if name != "partitions" or value}


@dataclass(frozen=True)
class ShardEntry:
    """One shard as written: its number of rows, and for each array the file's length in bytes and its SHA-256."""

    rows: int
    lengths: dict[str, int]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """The description of a committed set of arrays, written last.

    `kind` says what the arrays are ("dataset", "folds", "predictions"); `details` holds the JSON specific to that kind.
    `index` is the SHA-256 of the index file, None in earlier formats. The blocks of the arrays `behind` follow those of
    `x` in its shards.
    """

    kind: str
    layout: Layout
    arrays: tuple[ArraySpec, ...]
    shards: tuple[ShardEntry, ...]
    details: dict[str, Any]
    index: str | None = None
    behind: tuple[str, ...] = ()
    format: int = FORMAT

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Decode a manifest's JSON, in this format or an earlier one. Raises ForeignError for anything else."""
        if not isinstance(value, dict) or value.get("format") not in (1, 2, FORMAT):
            raise ForeignError(f"{where} is not a manifest in Foldstream's format {FORMAT}; convert the source again")
        if value["format"] == 1:
            value = from_first_format(value, where)
        return cls(
            kind=value["kind"],
            layout=Layout.from_json(value["layout"]),
            arrays=tuple(map(ArraySpec.from_json, value["arrays"])),
            shards=tuple(ShardEntry(**entry) for entry in value["shards"]),
            details=value["details"],
            index=value.get("index"),
            behind=tuple(value.get("behind", ())),
        )


def from_first_format(manifest: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert a manifest of format 1 to this format; the arrays are the same.

    Raises ForeignError for a dataset whose missing values were filled at conversion, from all rows.
    """
    if manifest["kind"] != "dataset":
        return manifest
    details = manifest["details"]
    return {**manifest, "details": {**details, "schema": schema_of_first_format(details["schema"], where)}}


def schema_of_first_format(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert the schema of a dataset of format 1, or of a run trained on one, to this format.

    Raises ForeignError for a dataset whose missing values were filled at conversion, from all rows.
    """
    if schema.get("fills") or schema.get("indicators"):
        raise ForeignError(
            f"{where} is in format 1: its missing values were filled from all rows, including held-out ones; convert "
            "the source again without --missing, so that each fold fills them from its own training rows"
        )
    return {name: value for name, value in schema.items() if name not in ("fills", "indicators")}
