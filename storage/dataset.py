"""Open a dataset, or other arrays that share its rows, and reject incomplete ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from .blocks.index import INDEX, BlockIndex, tables_in
from .blocks.shards import shard_path
from .blocks.writer import BLOCKS
from .errors import DamagedError, DatasetError, ForeignError, IncompleteError
from .foreign.format import TABLE as FOREIGN_TABLE
from .foreign.format import Foreign
from .format.arrays import ArraySpec
from .format.layout import Layout
from .format.manifest import MANIFEST, WORK, Manifest
from .format.schema import Schema
from .format.statistics import Statistics
from .format.windows import ROWS, RUNS, Windows
from .places.json_files import content_hash, parse_json
from .places.locate import Location, locate
from .places.place import Place
from .versions import VersionPart, find_version, manifest_of, newest_version

TABLES = 32  # block tables kept in memory: a few megabytes each for a billion rows


@dataclass(frozen=True)
class StoredArrays:
    """Committed arrays: their location and their manifest. Cheap to pickle; keeps no file open."""

    place: Place
    manifest: Manifest
    identity: str
    """SHA-256 of the manifest, which contains the hash of every shard: equal identities mean equal data."""

    def __fspath__(self) -> str:
        """The path or the URL, so that whatever takes a location also takes what is stored there."""
        return str(self.place)

    @property
    def root(self) -> Path:
        """The folder on this machine. Raises UsageError if the arrays are in an object store."""
        return Path(self.place)

    @property
    def layout(self) -> Layout:
        return self.manifest.layout

    def spec(self, name: str) -> ArraySpec:
        """The array of that name. Raises KeyError if it does not exist."""
        return {spec.name: spec for spec in self.manifest.arrays}[name]

    def shard_place(self, array: str, shard: int) -> Place:
        """The file of a shard."""
        return self.place / shard_path(self.layout, self.spec(array), shard)

    @property
    def index(self) -> BlockIndex:
        """Where each block is stored. Raises DamagedError if the index file is not the one that was written."""
        return _index(_IndexKey(self.place, self.identity, self.manifest))

    @property
    def foreign(self) -> Foreign | None:
        """The arrays that stay in files of others, if there are some. Raises DamagedError if their description is not
        the one that was written."""
        described = self.manifest.details.get("foreign")
        return _foreign(_IndexKey(self.place, self.identity, self.manifest)) if described else None

    @property
    def windows(self) -> Windows | None:
        """Where the samples are among the rows of time series, if they are windows over such rows. Raises DamagedError
        if their description is not the one that was written."""
        described = self.manifest.details.get("windows")
        return _windows(_IndexKey(self.place, self.identity, self.manifest)) if described else None

    def block_table(self, name: str) -> np.ndarray:
        """A table with one row per block, stored beside the arrays. Raises DamagedError if it is incomplete."""
        parts = [_block_table(place / BLOCKS / name, blocks, self.identity) for place, blocks in self._stored_parts()]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def narrow(self) -> dict[str, list[tuple[range, int]]]:
        """The arrays of text that earlier versions store with fewer bytes per row: their blocks, and the bytes."""
        found = dict[str, list[tuple[range, int]]]()
        for part, shards in self.version_shards():
            blocks = range(self.layout.blocks_of(shards[0]).start, self.layout.blocks_of(shards[-1]).stop)
            for name, width in part.widths.items():
                if (width,) != self.spec(name).row_shape:
                    found.setdefault(name, []).append((blocks, width))
        return found

    def folder_of(self, part: VersionPart) -> Place:
        """The folder of the rows that a version has added."""
        return self.place / part.folder if part.folder else self.place

    def version_shards(self) -> Iterator[tuple[VersionPart, range]]:
        """What each version has added, and the shards of it."""
        first = 0
        for part in parts_of(self.manifest, self.identity):
            yield part, range(first, first + part.shards)
            first += part.shards

    def _stored_parts(self) -> list[tuple[Place, int]]:
        """The folders with an index and block tables of their own, and their numbers of blocks."""
        found, block = list[tuple[Place, int]](), 0
        for part, shards in self.version_shards():
            stop = self.layout.blocks_of(shards[-1]).stop if shards else block
            found.append((self.folder_of(part), stop - block))
            block = stop
        return found


@dataclass(frozen=True)
class ColumnFacts:
    """The role and storage type of a source column.

    `role`: "feature", "label", "id", "group", "time", "fold", "weight", "keep", several of these separated by commas,
    or "left out", in which case `reason` says why. `kind`: "number", "category", "class", "text", or "days",
    "seconds", "microseconds" or "nanoseconds" (since 1970), or "sequence", whose numbers are those of its lengths.
    `missing` is the number of missing values of a feature, `distinct` that of categories or classes.
    """

    name: str
    role: str
    kind: str = ""
    dtype: str = ""
    missing: int | None = None
    distinct: int | None = None
    minimum: float | None = None
    mean: float | None = None
    maximum: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Dataset(StoredArrays):
    """A committed dataset: `x` and `id`, `y` and `key` if the source has them, and the side columns.

    `place` is the same for all versions of a dataset. `pinned`: a version was asked for, rather than the newest.
    """

    pinned: bool = False

    def __fspath__(self) -> str:
        """The path or the URL, with the version if one was asked for."""
        return self.location

    @property
    def location(self) -> str:
        """The path or the URL as a user writes it: `d.zarr`, or `d.zarr@2` if a version was asked for."""
        return f"{self.place}@{self.version}" if self.pinned else str(self.place)

    @property
    def reference(self) -> str:
        """What `open_dataset` opens as exactly this version, also if another one is committed meanwhile."""
        return str(manifest_of(self.place, self.version))

    @property
    def versions(self) -> tuple[VersionPart, ...]:
        """The rows that each version up to this one has added."""
        return parts_of(self.manifest, self.identity)

    @property
    def version(self) -> int:
        """The number of this version, from 1."""
        return len(self.versions)

    @property
    def earlier(self) -> tuple[str, ...]:
        """The identities of the earlier versions, in order."""
        return tuple(self.manifest.details.get("earlier", ()))

    def earlier_version(self, identity: str) -> "Dataset | None":
        """The earlier version with an identity, None if there is none."""
        return self.at(1 + self.earlier.index(identity)) if identity in self.earlier else None

    def at(self, version: int) -> "Dataset":
        """An earlier version, or this one. Raises DamagedError if its manifest has changed."""
        found = self if version == self.version else open_dataset(manifest_of(self.place, version))
        if found is not self and found.identity != self.earlier[version - 1]:
            path = manifest_of(self.place, version)
            raise DamagedError(f"{path} has changed since rows were appended; restore it from a copy")
        return found

    def __len__(self) -> int:
        """The number of rows."""
        return self.layout.rows

    @cached_property
    def schema(self) -> Schema:
        return Schema.from_json(self.manifest.details["schema"])

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics.from_json(self.manifest.details["statistics"])

    @property
    def request(self) -> dict[str, Any]:
        """The conversion request: the sources with their sizes and modification times, and the options."""
        request: dict[str, Any] = self.manifest.details["request"]
        return request

    @property
    def left_out(self) -> int:
        """Number of invalid rows of the sources that were skipped; `left_out.csv` lists them."""
        return int(self.manifest.details.get("left_out", 0))

    def source_rows(self, ids: np.ndarray) -> np.ndarray:
        """The positions of rows among all rows of the sources, also invalid ones that were skipped, (n,) int64.

        Datasets of earlier versions do not have them: the positions are those in the dataset.
        """
        skipped = np.array(self.manifest.details.get("left_out_rows", ()), np.int64)
        found: np.ndarray = ids + np.searchsorted(skipped - np.arange(len(skipped)), ids, side="right")
        return found

    def facts(self) -> dict[str, Any]:
        """A summary of the dataset as JSON."""
        schema = self.schema
        return {
            "place": str(self.place),
            "version": self.version,
            "versions": [{"rows": part.rows, "sources": list(part.sources)} for part in self.versions],
            "identity": self.identity,
            "rows": len(self),
            "left_out": self.left_out,
            "sample": f"{schema.x_dtype} {'×'.join(map(str, schema.sample_shape))}",
            "labels": list(schema.labels),
            "task": schema.task,
            "classes": list(schema.classes),
            **({"dense": asdict(schema.dense)} if schema.dense else {}),
            "shards": self.layout.shards,
            "stored_bytes": self.stored_bytes,
            **({"encoded": True} if schema.encoded else {}),
            **({"in_place": self.foreign.facts()} if self.foreign else {}),
        }

    def columns(self) -> tuple[ColumnFacts, ...]:
        """The role of each source column: label, id, feature, side column or dropped. Features that together form a
        channel of the sample, such as pixels, share the channel's statistics."""
        schema, found = self.schema, list[ColumnFacts]()
        if form := schema.windows:
            steps = f"{form.label}+1" + (f" to +{form.horizon}" if form.horizon > 1 else "")
            found.append(ColumnFacts(steps, "label", "number", str(schema.y_dtype)))
        for number, name in enumerate(schema.labels if not schema.windows else ()):
            kinds = {"classification": "class", "multilabel": "0 or 1", "segmentation": "mask"}
            of_numbers = "image" if schema.target_name else "vector" if schema.dense else "number"
            kind = kinds.get(str(schema.task), of_numbers)
            mean = self.statistics.y_mean[number] if self.statistics.y_mean and not schema.dense else None
            distinct = len(schema.classes) or len(schema.dense.classes if schema.dense else ()) or None
            found.append(ColumnFacts(name, "label", kind, str(schema.y_dtype), distinct=distinct, mean=mean))
        if schema.key:
            spec = self.spec("key")
            found.append(ColumnFacts(schema.key, "id", "text" if spec.row_shape else "number", spec.dtype))
        roles: dict[str, list[str]] = {}
        for role, names in schema.roles.items():
            for name in names:
                roles.setdefault(name, []).append(role)
        found += self._features(schema.tabular, self.statistics.tabular, roles)
        for column in (column for column in schema.beside if column.name not in schema.tabular.features):
            kind = "number" if column.kind == "integer" else column.kind
            role = ", ".join(roles.get(column.name, ["keep"]))
            found.append(ColumnFacts(column.name, role, kind, column.spec().dtype))
        return (*found, *(ColumnFacts(name, "left out", reason=why) for name, why in schema.left_out.items()))

    def _features(
        self, schema: Schema, statistics: Statistics, roles: Mapping[str, Sequence[str]]
    ) -> Iterator[ColumnFacts]:
        width = len(schema.features) // schema.channels
        for position, name in enumerate(schema.features):
            channel, role = position // width, ", ".join(("feature", *roles.get(name, ())))
            missing = statistics.missing[channel]
            if name in schema.categories:
                distinct = len(schema.categories[name])
                yield ColumnFacts(name, role, "category", schema.x_dtype, missing, distinct)
                continue
            values = (statistics.minimum[channel], statistics.mean[channel], statistics.maximum[channel])
            known = values if missing < len(self) * width else ()
            kind = "sequence" if schema.tokens else schema.dates.get(name, "number")
            yield ColumnFacts(name, role, kind, schema.x_dtype, missing, None, *known)

    @property
    def stored_bytes(self) -> int:
        """Size of all shards in bytes, as stored; of windows also of the rows that they are of."""
        rows = open_rows(self).stored_bytes if self.windows else 0
        return rows + sum(sum(entry.lengths.values()) for entry in self.manifest.shards)

    @property
    def class_totals(self) -> tuple[int, ...]:
        """Number of rows of each class."""
        return tuple(self.manifest.details["class_counts"])

    @cached_property
    def class_counts(self) -> np.ndarray:
        """Number of rows of each class in every block, (blocks, classes) int64."""
        return self.block_table("class_counts").astype(np.int64)


@dataclass(frozen=True)
class _IndexKey:
    """Which index it is: equal keys mean equal indexes."""

    place: Place
    identity: str
    manifest: Manifest = field(compare=False)


@lru_cache(TABLES)
def _index(key: _IndexKey) -> BlockIndex:
    manifest = key.manifest
    arrays = StoredArrays(key.place, manifest, key.identity)
    if manifest.index is None:
        from .blocks.earlier import index_of_earlier_format

        return index_of_earlier_format(key.place, manifest, arrays.block_table)
    parts = parts_of(manifest, key.identity)
    found = [
        _index_tables(place / INDEX, part.index, blocks)
        for part, (place, blocks) in zip(parts, arrays._stored_parts(), strict=True)
    ]
    tables = found[0]
    if len(found) > 1:
        tables = {name: np.concatenate([one[name] for one in found]) for name in tables}
    return BlockIndex(manifest.layout, tables, manifest.behind)


def _index_tables(place: Place, digest: str | None, blocks: int) -> dict[str, np.ndarray]:
    """The tables of an index file with that SHA-256."""
    try:
        data = place.read_bytes()
        if content_hash(data) != digest:
            raise ValueError("its content differs from what was written")
        return tables_in(data, blocks)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedError(f"{place} cannot be read ({error}); convert the source again") from None


def parts_of(manifest: Manifest, identity: str) -> tuple[VersionPart, ...]:
    """What each version up to that of a manifest has added: a single part, unless rows have been appended."""
    if found := manifest.details.get("versions"):
        return tuple(map(VersionPart.from_json, found))
    sources = [one["path"] if isinstance(one, dict) else one for one in _sources(manifest)]
    rows, left_out = manifest.layout.rows, manifest.details.get("left_out", 0)
    return (VersionPart("", rows, manifest.layout.shards, left_out, manifest.index, identity, tuple(sources)),)


def _sources(manifest: Manifest) -> Sequence[Any]:
    request = manifest.details.get("request") or {}
    found: Sequence[Any] = request.get("sources", ())
    return found


@lru_cache(TABLES)
def _foreign(key: _IndexKey) -> Foreign:
    place, described = key.place / FOREIGN_TABLE, key.manifest.details["foreign"]
    try:
        data = place.read_bytes()
        if content_hash(data) != described["table"]:
            raise ValueError("its content differs from what was written")
        return Foreign.of(described["arrays"], data)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedError(f"{place} cannot be read ({error}); adopt the files again") from None


@lru_cache(TABLES)
def _windows(key: _IndexKey) -> Windows:
    place, details = key.place / RUNS, key.manifest.details
    try:
        data = place.read_bytes()
        if content_hash(data) != details["windows"]["runs"]:
            raise ValueError("its content differs from what was written")
        form = Schema.from_json(details["schema"]).windows
        assert form
        return Windows.of(form, details["windows"], data)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedError(f"{place} cannot be read ({error}); convert the source again") from None


@lru_cache(TABLES)
def _block_table(place: Place, blocks: int, identity: str) -> np.ndarray:
    """Read a block table once per `identity` of the arrays it belongs to; the result is read-only."""
    try:
        array = zarr.open_array(place.zarr_store(), mode="r")
        table = np.asarray(array[...])
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{place} cannot be read ({error}); convert the source again") from None
    chunk = "/".join(["c", *("0" for _ in table.shape)])  # a table is one chunk, and a missing one reads as zeros
    if len(table) != blocks or not (place / chunk).exists():
        raise DamagedError(f"{place} does not have one row for each of the {blocks} blocks; convert the source again")
    table.setflags(write=False)
    return table


def open_dataset(path: Location) -> Dataset:
    """Open the dataset at `path`, which may be a URL in an object store (`s3://bucket/digits.zarr`), in its newest
    version, or in the one that the end of the path names (`digits.zarr@2`).

    Raises ForeignError if there is no dataset or no such version, and IncompleteError if its conversion has not
    finished.
    """
    root, wanted, pinned = find_version(path)
    newest = newest_version(root) if wanted is None or pinned else wanted
    if wanted and wanted > newest:
        open_dataset(root)  # the error if there is no dataset at all
        has = f"versions 1 to {newest}" if newest > 1 else "only version 1"
        raise ForeignError(f"{root} has no version {wanted}, but {has}; leave out '@{wanted}' for the newest one")
    return Dataset(*_load(root, "dataset", manifest_of(root, wanted or newest)), pinned)


def open_rows(samples: StoredArrays) -> Dataset:
    """Open the rows that samples are windows over. Raises DamagedError if they are not those that the samples were made
    from."""
    rows, windows = open_dataset(samples.place / ROWS), samples.windows
    if windows is None or rows.identity != windows.rows:
        raise DamagedError(f"{rows.place} is not what {samples.place} was made from; convert the source again")
    return rows


def open_arrays(path: Location, kind: str) -> StoredArrays:
    """Open committed arrays of another kind ("folds", "predictions"). Raises ForeignError if there are none."""
    return StoredArrays(*_load(locate(path), kind))


def _load(root: Place, kind: str, path: Place | None = None) -> tuple[Place, Manifest, str]:
    path = path or root / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(root, kind) from None
    manifest = Manifest.from_json(parse_json(data, str(path)), str(path))
    if manifest.kind != kind:
        raise ForeignError(f"{root} contains {manifest.kind}, not a {kind}; give another path")
    return root, manifest, content_hash(data)


def _missing(root: Place, kind: str) -> DatasetError:
    """The error for a location without a manifest."""
    if (root / WORK).names():
        return IncompleteError(f"{root}: the conversion is incomplete; run the same command again to resume it")
    command = f"'foldstream convert csv SOURCE {root} --label COLUMN'"
    if kind == "dataset" and root.is_file():
        command = f"'foldstream convert csv {root} OUT.zarr --label COLUMN'"
        return ForeignError(f"{root} is a file, not a dataset; convert it with {command}")
    if kind == "dataset" and not root.is_dir():
        return ForeignError(f"{root} does not exist; create it with {command}")
    if kind == "dataset" and (root / "run.json").exists():
        return ForeignError(f"{root} is a run, not a dataset; give the dataset that 'foldstream convert' has written")
    what = f"{root} is not a {kind} written by Foldstream (it has no {MANIFEST})"
    if kind == "dataset" and root.is_dir():
        return ForeignError(
            f"{what}; if it contains source files, convert them with 'foldstream convert csv {root} OUT.zarr --label "
            f"COLUMN' or 'foldstream convert images {root} OUT.zarr'"
        )
    return ForeignError(f"{what}; give another path")
