"""The shape of a dataset on disk, as plain values: layout, arrays, schema, statistics, manifest.

Nothing here reads or writes. The manifest is JSON; its size grows with the number of shards, and what grows with
the number of blocks stands in small Zarr arrays beside it, so that a billion rows open quickly.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Self, TypeVar

import numpy as np

from .errors import ForeignError

Score = TypeVar("Score")
FORMAT = 1
MANIFEST = "manifest.json"
WORK = ".work"
LEFT_OUT = "left_out.csv"  # the faulty rows of the sources, if any were left out

BLOCK_BYTES = 2 << 20
SHARD_BYTES = 64 << 20
MINIMUM_BLOCKS = 256  # 8 lanes of 32 blocks
MINIMUM_SHARDS = 8


@dataclass(frozen=True)
class Layout:
    """How the rows are cut: `block_rows` rows a block, `shard_blocks` blocks a shard, the last of each shorter."""

    rows: int
    block_rows: int
    shard_blocks: int

    @property
    def shard_rows(self) -> int:
        return self.block_rows * self.shard_blocks

    @property
    def blocks(self) -> int:
        return math.ceil(self.rows / self.block_rows)

    @property
    def shards(self) -> int:
        return math.ceil(self.rows / self.shard_rows)

    def block_range(self, block: int) -> tuple[int, int]:
        """First row of a block, and the row after its last."""
        start = block * self.block_rows
        return start, min(start + self.block_rows, self.rows)

    def joined(self, blocks: Sequence[int]) -> list[slice]:
        """Where the rows of each of `blocks` lie in a buffer that holds them one after the other."""
        ends = [0, *accumulate(stop - start for start, stop in map(self.block_range, blocks))]
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the row after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, self.rows)

    def blocks_of(self, shard: int) -> range:
        """The blocks that a shard holds."""
        first = shard * self.shard_blocks
        return range(first, min(first + self.shard_blocks, self.blocks))

    def block_sizes(self) -> np.ndarray:
        """Rows of every block, (blocks,) int64."""
        sizes = np.full(self.blocks, self.block_rows, np.int64)
        sizes[-1] = self.rows - (self.blocks - 1) * self.block_rows
        return sizes


def choose_layout(rows: int, row_bytes: int) -> Layout:
    """Blocks of about 2 MB and shards of about 64 MB of `x`; small data gets smaller ones.

    At least 256 blocks where there are as many rows (every one of 8 lanes then has 32 to mix), and at least 8
    shards, so that several workers have something to do.
    """
    block_rows = max(1, min(BLOCK_BYTES // row_bytes, rows // MINIMUM_BLOCKS))
    blocks = math.ceil(rows / block_rows)
    shard_blocks = min(math.ceil(SHARD_BYTES / (block_rows * row_bytes)), math.ceil(blocks / MINIMUM_SHARDS))
    return Layout(rows, block_rows, shard_blocks)


@dataclass(frozen=True)
class ArraySpec:
    """One array of a dataset: all arrays share their row boundaries, the rest of the shape is their own."""

    name: str
    dtype: str
    row_shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.row_shape)

    def empty(self, rows: int) -> np.ndarray:
        """An uninitialised buffer for `rows` rows."""
        return np.empty((rows, *self.row_shape), self.dtype)


@dataclass(frozen=True)
class ImageForm:
    """How image files become samples.

    `size` is (height, width); `color` "rgb" or "gray"; `fit` "pad", "crop" or "stretch"; `background`, behind what is
    transparent and around what is padded, "white" or "black"; `dtype` "uint8" or "uint16".
    """

    size: tuple[int, int]
    color: str = "rgb"
    fit: str = "pad"
    background: str = "white"
    dtype: str = "uint8"

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        return (3 if self.color == "rgb" else 1, *self.size)

    @property
    def ground(self) -> int:
        """The background as a value of 8 bits."""
        return 255 if self.background == "white" else 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "size": tuple(value["size"])})


@dataclass(frozen=True)
class Schema:
    """What the columns mean.

    `features` are the source columns of `x` in order, `labels` those of `y`, of which there are several only in a
    "regression"; `task` is that, "classification", or None (no label);
    `classes` are the label's values in the order of their codes; `key` is the user's own id column, stored as int64
    or, if `key_width` is set, as that many bytes of UTF-8 a row, padded with zeros.

    Features that are text are stored as the position of their value in `categories`, dates as "days" or "seconds"
    since 1970 as `dates` says. `fills` stand for missing numbers; `indicators` are the features whose missing values
    are marked by a column of their own, 1 where one is missing, behind all features. Samples that are images have an
    `image` form and no features.
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
    fills: dict[str, float] = field(default_factory=dict)
    indicators: tuple[str, ...] = ()
    image: ImageForm | None = None

    @property
    def outputs(self) -> int:
        """Values that a model gives a row: one a class, or one a label."""
        return len(self.classes) or len(self.labels) or 1

    def by_label(self, name: str, values: Iterable[Score]) -> dict[str, Score]:
        """A score of each label, or those of its rows, under its name: `rmse`, or `rmse/price` where there are several
        labels."""
        names = [name] if len(self.labels) == 1 else [f"{name}/{label}" for label in self.labels]
        return dict(zip(names, values, strict=True))

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays of a dataset with this schema."""
        specs = [ArraySpec("x", self.x_dtype, self.sample_shape)]
        if self.y_dtype:
            specs.append(ArraySpec("y", self.y_dtype, (len(self.labels),) if len(self.labels) > 1 else ()))
        specs.append(ArraySpec("id", "int64"))
        if self.key:
            specs.append(ArraySpec("key", "uint8", (self.key_width,)) if self.key_width else ArraySpec("key", "int64"))
        return tuple(specs)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tuples = {name: tuple(value[name]) for name in ("features", "labels", "sample_shape", "classes", "indicators")}
        categories = {name: tuple(values) for name, values in value["categories"].items()}
        image = value["image"] and ImageForm.from_json(value["image"])
        return cls(**{**value, **tuples, "categories": categories, "image": image})


def keys_of(stored: np.ndarray) -> list[Any]:
    """The user's keys of some rows, from what is stored: whole numbers (rows,), or UTF-8 (rows, width)."""
    if stored.ndim == 2:
        return [bytes(row).rstrip(b"\0").decode() for row in stored]
    return list(stored)


@dataclass(frozen=True)
class Statistics:
    """Per channel of `x` (the first axis of a sample): mean, standard deviation, least and greatest value; and how
    many values of it were missing in the source.

    `y_mean` and `y_std` are those of each label of a regression.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]
    missing: tuple[int, ...] = ()
    y_mean: tuple[float, ...] = ()
    y_std: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        tuples = {
            name: tuple(value[name]) for name in ("mean", "std", "minimum", "maximum", "missing", "y_mean", "y_std")
        }
        return cls(**{**value, **tuples})


@dataclass(frozen=True)
class Source:
    """A source file as it was when it was read."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class ShardEntry:
    """One shard as it was written: rows, and per array the file's length in bytes and SHA-256."""

    rows: int
    lengths: dict[str, int]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """All that is known of a committed set of arrays, written last.

    `kind` says what the arrays are ("dataset", "folds", "predictions"); `details` holds what that kind adds, as JSON.
    """

    kind: str
    layout: Layout
    arrays: tuple[ArraySpec, ...]
    shards: tuple[ShardEntry, ...]
    details: dict[str, Any]
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """Read back what `to_json` gave. Raises ForeignError for anything else."""
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ForeignError(f"{where} is not a manifest of Foldstream's format {FORMAT}; make it again")
        return cls(
            kind=value["kind"],
            layout=Layout(**value["layout"]),
            arrays=tuple(ArraySpec(a["name"], a["dtype"], tuple(a["row_shape"])) for a in value["arrays"]),
            shards=tuple(ShardEntry(**entry) for entry in value["shards"]),
            details=value["details"],
        )
