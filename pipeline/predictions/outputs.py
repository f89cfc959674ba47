"""What predictions are written to: one file, a folder of Parquet files, or Zarr arrays.

Each shard of the source is a part, written as a whole by one process. The last step, which is atomic, makes the parts
one result: before it there is none.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...storage.blocks.shards import shard_path
from ...storage.blocks.writer import commit, create_arrays, write_shard
from ...storage.dataset import open_arrays
from ...storage.errors import ConflictError, DamagedError
from ...storage.format.manifest import MANIFEST, Manifest, ShardEntry
from ...storage.places.json_files import read_json, write_json
from ...storage.places.place import Place
from ..target.commit import attributes
from .files import CsvWriter, concatenate, is_file, joined, read_batches, write_batches, write_part, write_tables
from .form import PredictedForm
from .receipts import Facts

Rows = Iterable[tuple[dict[str, np.ndarray], np.ndarray]]
"""Batches of rows: their arrays in the source, and their predictions, (rows, outputs)."""
PARTS = "parts"
TABLES = ".arrow"  # the ending of parts that are tables
SUCCESS = "_SUCCESS"
"""The file that completes a folder, as for Hadoop and Spark. Readers of Parquet pass over it."""
RESULT = "result"


class Output(Protocol):
    """Where predictions go. It is sent to workers, so it holds nothing but places."""

    def result(self) -> dict[str, Any] | None:
        """The result, if it is complete and can be told from that of another request."""

    def check_free(self) -> None:
        """Raise ConflictError if there is something that must not be replaced."""

    def begin(self, form: PredictedForm) -> None:
        """Prepare for parts."""

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        """Write the part of a shard, atomically."""

    def is_written(self, shard: int, facts: Facts, form: PredictedForm) -> bool:
        """Whether the part is there as it was written."""

    def commit(self, form: PredictedForm, parts: Sequence[Facts], result: dict[str, Any]) -> None:
        """Complete the result from all parts."""


@dataclass(frozen=True)
class FileOutput:
    """One file. Its parts are in the folder `work`: those of a CSV file are concatenated; others are tables, which
    become row groups of the same size as without parts."""

    target: Place
    ending: str
    work: Place

    @property
    def _is_text(self) -> bool:
        return self.ending.startswith(".csv")

    def result(self) -> None:
        """None: a file does not tell what it was made from."""

    def check_free(self) -> None:
        """Do nothing: an earlier file is replaced at the end."""

    def begin(self, form: PredictedForm) -> None:
        """Do nothing."""

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        tables = (form.table(*batch) for batch in rows)
        if self._is_text:
            return write_part(joined(tables), self._part(shard), partial(CsvWriter, header=shard == 0))
        return write_part(tables, self._part(shard), write_batches)

    def is_written(self, shard: int, facts: Facts, form: PredictedForm) -> bool:
        return is_file(self._part(shard), **facts)

    def commit(self, form: PredictedForm, parts: Sequence[Facts], result: dict[str, Any]) -> None:
        if self._is_text:
            concatenate(map(self._part, range(len(parts))), self.target, self.ending)
        else:
            write_tables(self.tables(len(parts)), self.target, self.ending)

    def tables(self, count: int) -> Iterator[pa.Table]:
        """The tables of so many parts, which are all, one for each batch."""
        return read_batches(map(self._part, range(count)))

    def _part(self, shard: int) -> Place:
        return self.work / PARTS / f"{shard:08d}"


@dataclass(frozen=True)
class FolderOutput:
    """A folder of Parquet files, one for each shard, in the order of their names."""

    root: Place

    def result(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = read_json(self.root / SUCCESS)
        except (FileNotFoundError, NotADirectoryError, DamagedError):  # that of another program is empty
            return None
        return found

    def check_free(self) -> None:
        check_empty(self.root)

    def begin(self, form: PredictedForm) -> None:
        """Do nothing."""

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        tables = joined(form.table(*batch) for batch in rows)
        return write_part(tables, self._part(shard), parquet.ParquetWriter)

    def is_written(self, shard: int, facts: Facts, form: PredictedForm) -> bool:
        return is_file(self._part(shard), **facts)

    def commit(self, form: PredictedForm, parts: Sequence[Facts], result: dict[str, Any]) -> None:
        self.root.clean_temporaries()
        write_json(self.root / SUCCESS, result)

    def _part(self, shard: int) -> Place:
        return self.root / f"part-{shard:05d}.parquet"


@dataclass(frozen=True)
class ZarrOutput:
    """Arrays with the shards of the source: `prediction` (rows, outputs), and the rows' `key` or `row` number."""

    root: Place

    def result(self) -> dict[str, Any] | None:
        if not (self.root / MANIFEST).exists():
            return None
        found: dict[str, Any] | None = open_arrays(self.root, "predictions").manifest.details.get(RESULT)
        return found

    def check_free(self) -> None:
        check_empty(self.root)

    def begin(self, form: PredictedForm) -> None:
        create_arrays(self.root, form.dataset.layout, form.specs, attributes(form.schema))

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        batches = [form.arrays(*batch) for batch in rows]
        arrays = {spec.name: np.concatenate([batch[spec.name] for batch in batches]) for spec in form.specs}
        return vars(write_shard(self.root, form.dataset.layout, form.specs, shard, arrays))

    def is_written(self, shard: int, facts: Facts, form: PredictedForm) -> bool:
        entry = ShardEntry(**facts["entry"])
        return all(
            is_file(
                self.root / shard_path(form.dataset.layout, spec, shard),
                entry.lengths[spec.name],
                entry.hashes[spec.name],
            )
            for spec in form.specs
        )

    def commit(self, form: PredictedForm, parts: Sequence[Facts], result: dict[str, Any]) -> None:
        entries = tuple(ShardEntry(**part["entry"]) for part in parts)
        blocks = {spec.name: [one for part in parts for one in part["blocks"][spec.name]] for spec in form.specs}
        details = {"dataset": form.dataset.identity, RESULT: result}
        commit(self.root, Manifest("predictions", form.dataset.layout, form.specs, entries, details), blocks)


def check_empty(root: Place) -> None:
    """Raise ConflictError if something is in a folder to write to, or a file is in its place."""
    if root.is_file() or root.names():
        raise ConflictError(f"{root} already contains something else; choose another name, or remove it")
