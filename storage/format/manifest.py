"""The manifest, which is written last: what was committed, from which sources, in which format.

It is JSON and grows with the number of shards; anything that grows with the number of blocks is stored in small Zarr
arrays beside it, so that a dataset of a billion rows opens quickly.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ..errors import ForeignError
from .arrays import ArraySpec
from .layout import Layout

FORMAT = 3
MANIFEST = "manifest.json"
WORK = ".work"
LEFT_OUT = "left_out.csv"  # the invalid rows of the sources, if any were skipped
PLANS = "splits"  # the folder of the plans stored with a dataset, by name
PLAN_OF_RUNS = "runs"  # the plan of a dataset of predictions: that of the runs


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
