"""Receipts of predicted shards: what was written, and what was counted of the rows."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...storage.places.json_files import to_json
from ...storage.places.place import THREADS, Place
from .known_labels import SourceScores
from .scores import MergedScores
from .unknown import UnknownCategories

RECEIPTS, SUFFIX = "receipts", ".npz"
Facts = dict[str, Any]
"""What an output says of a part that it has written, as JSON."""


@dataclass
class Tally:
    """What is counted of predicted rows: unknown categories, and the scores of rows with labels unless rows are not to
    be scored."""

    unknown: UnknownCategories
    scores: SourceScores | None

    def count(self, arrays: dict[str, np.ndarray], predictions: np.ndarray) -> None:
        """Add rows with their arrays in the source and their predictions."""
        self.unknown.count(arrays)
        if self.scores:
            self.scores.add(arrays, predictions)

    def add(self, counted: Mapping[str, np.ndarray]) -> None:
        """Add what `to_arrays` of another one has returned."""
        self.unknown.rows.update(json.loads(bytes(counted["unknown"])))
        if self.scores and "numbers" in counted:
            self.scores.merge(MergedScores.from_arrays(self.scores.scoring, counted))

    def to_arrays(self) -> dict[str, np.ndarray]:
        merged = self.scores and self.scores.merged
        return {"unknown": as_bytes(self.unknown.rows), **(merged.to_arrays() if merged else {})}

    def scored(self) -> dict[str, Any]:
        """The scores of the rows with labels; empty if there are none."""
        return self.scores.to_json() if self.scores else {}


def as_bytes(value: Any) -> np.ndarray:
    """JSON as an array of bytes, (length,) uint8."""
    return np.frombuffer(to_json(value), np.uint8)


def receipt_path(work: Place, shard: int) -> Place:
    return work / RECEIPTS / f"{shard:08d}{SUFFIX}"


def write_receipt(work: Place, shard: int, facts: Facts, tally: Tally) -> None:
    """Write the receipt of a shard, after its part."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, facts=as_bytes(facts), **tally.to_arrays())  # type: ignore[arg-type]
    receipt_path(work, shard).write(buffer.getvalue())


def read_receipt(work: Place, shard: int) -> tuple[Facts, dict[str, np.ndarray]]:
    """The facts of a shard's part, and what was counted of its rows. Raises FileNotFoundError, and ValueError for one
    that is damaged."""
    try:
        with np.load(io.BytesIO(receipt_path(work, shard).read_bytes())) as stored:
            counted = dict(stored)
        return json.loads(bytes(counted.pop("facts"))), counted
    except (BadZipFile, KeyError, EOFError) as error:
        raise ValueError(str(error)) from None


def finished_shards(work: Place, is_written: Callable[[int, Facts], bool]) -> Iterator[int]:
    """The shards that have a receipt, and whose part `is_written` as it says."""
    shards = [int(name.removesuffix(SUFFIX)) for name in (work / RECEIPTS).names() if name.endswith(SUFFIX)]

    def is_finished(shard: int) -> bool:
        try:
            return is_written(shard, read_receipt(work, shard)[0])
        except ValueError:
            return False

    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(is_finished, shards)
        yield from (shard for shard, finished in zip(shards, found, strict=True) if finished)
