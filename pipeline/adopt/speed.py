"""How fast foreign features are read, compared with a copy of them: from the geometry of their chunks, and a short
measurement of decoding."""

from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ...storage.blocks.shards import decode_block, encode_shard
from ...storage.dataset import Dataset
from ...storage.foreign.cache import CACHE_BYTES
from ...storage.foreign.chunks import is_divisible
from ...storage.foreign.format import Chunked, Foreign, Sparse
from ...storage.foreign.reader import ForeignReader
from ...storage.format.layout import Layout

SAMPLES, REPEATS = 3, 3  # blocks that are measured, and how often
SMALL_BYTES = 64 << 20  # of features, which stay decoded in memory
SLOW = 0.7  # times the speed of a copy, below which a copy is advised


@dataclass(frozen=True)
class ReadingSpeed:
    """The rows per second of reading in place as a share of those of a copy, None if all rows stay in memory anyway;
    and how often each chunk is decoded in an epoch."""

    share: float | None
    decodings: float = 1.0

    def describe(self) -> str:
        """A sentence, with the remedy if reading in place is slow."""
        if self.share is None:
            return "read in place, and small enough to stay in memory"
        said = f"read in place, at about {min(self.share, 9.9):.1f} times the speed of a copy"
        if self.share >= SLOW:
            return said
        why = f"; each chunk is decoded {self.decodings:.0f} times an epoch" if self.decodings >= 1.5 else ""
        return f"{said}{why}; 'foldstream adopt … --copy' makes a copy"


class _Seconds(NamedTuple):
    """How long a block takes: read for the first time, read again while its chunks are decoded, read as ours, and what
    a stream does in both cases, to place its rows in batches."""

    first: float
    again: float
    ours: float
    placed: float


def compare_speed(dataset: Dataset) -> ReadingSpeed | None:
    """Compare the reading of foreign features in one thread with that of a copy; None for a dataset without them."""
    foreign, layout = dataset.foreign, dataset.layout
    if foreign is None:
        return None
    if layout.rows * dataset.spec("x").row_bytes <= SMALL_BYTES:
        return ReadingSpeed(None)
    blocks = np.unique(np.linspace(0, layout.blocks - 1, SAMPLES).astype(int)).tolist()
    measured = [_measure(dataset, foreign, block) for block in blocks]
    first, again, ours, placed = (sum(values) / len(blocks) for values in zip(*measured, strict=True))
    # A block whose chunks are decoded takes as long as the second reading; to decode them takes the rest of the first.
    decodings, bands = _decodings(dataset, foreign), _bands(foreign)
    decoded = 0.0 if not decodings else min(1.0, len(bands) * decodings / layout.blocks)
    theirs = again + decoded * max(0.0, first - again)
    return ReadingSpeed((ours + placed) / max(theirs + placed, 1e-9), decodings)


def _bands(foreign: Foreign) -> np.ndarray:
    """The first rows of the chunks, and the number of rows, (chunks + 1,) float64. Those of a sparse matrix have about
    the same number of rows."""
    array = foreign.arrays["x"]
    if isinstance(array, Sparse):
        return np.linspace(0, array.rows, len(array.values.chunks) + 1)
    return array.bands.astype(np.float64)


def _decodings(dataset: Dataset, foreign: Foreign) -> float:
    """How often a chunk is decoded in an epoch: for each of its blocks, or not at all after the first epoch if all of
    them stay in memory."""
    layout, bands, array = dataset.layout, _bands(foreign), foreign.arrays["x"]
    if isinstance(array, Chunked) and is_divisible(array):
        return 1.0  # only the rows of a block are read
    begins = layout.block_starts()
    ends = np.append(begins[1:], layout.rows)
    touched = np.searchsorted(bands, ends, side="left") - np.searchsorted(bands, begins, side="right") + 1
    decodings = float(touched.sum() / (len(bands) - 1))
    stay = layout.rows * dataset.spec("x").row_bytes <= CACHE_BYTES
    return 0.0 if stay and decodings > 1 else decodings


def _measure(dataset: Dataset, foreign: Foreign, block: int) -> _Seconds:
    """Measure a block a few times; the shortest times are those without others on the same machine."""
    start, stop = dataset.layout.block_range(block)
    spec, found = dataset.spec("x"), list[int]()
    rows = spec.empty(stop - start)
    ForeignReader(foreign).read("x", start, stop, rows)  # so that the file is in memory, as it often is in training
    data = b"".join(encode_shard(spec, Layout(len(rows), len(rows), 1), rows, found))[: found[0]]
    out, order = np.empty_like(rows), np.random.default_rng(0).permutation(len(rows))
    times = []
    for _ in range(REPEATS):
        reader, stored = ForeignReader(foreign), np.frombuffer(bytearray(data), np.uint8)
        began = perf_counter()
        reader.read("x", start, stop, rows)
        once = perf_counter()
        reader.read("x", start, stop, rows)
        twice = perf_counter()
        decode_block(stored.copy(), found[1], out)
        decoded = perf_counter()
        np.take(rows, order, axis=0, out=out)
        times.append(_Seconds(once - began, twice - once, decoded - twice, perf_counter() - decoded))
    return _Seconds(*(min(values) for values in zip(*times, strict=True)))
