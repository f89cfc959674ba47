"""How fast foreign features are read, compared with a copy of them: from the geometry of their chunks, and a short
measurement of decoding."""

from dataclasses import astuple, dataclass
from time import perf_counter

import numpy as np

from ...storage.blocks.shards import decode_block, encode_shard
from ...storage.dataset import Dataset
from ...storage.foreign.cache import CACHE_BYTES
from ...storage.foreign.format import Foreign, Sparse, chunk_rows
from ...storage.foreign.reader import ForeignReader
from ...storage.format import Layout

SAMPLES = 3  # blocks that are measured
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


@dataclass(frozen=True)
class _Seconds:
    """How long a block takes: read for the first time, read again while its chunks are decoded, and read as ours."""

    first: float
    again: float
    ours: float


def compare_speed(dataset: Dataset) -> ReadingSpeed | None:
    """Compare the reading of foreign features in one thread with that of a copy; None for a dataset without them."""
    foreign, layout = dataset.foreign, dataset.layout
    if foreign is None:
        return None
    if layout.rows * dataset.spec("x").row_bytes <= SMALL_BYTES:
        return ReadingSpeed(None)
    blocks = np.unique(np.linspace(0, layout.blocks - 1, SAMPLES).astype(int)).tolist()
    measured = [_measure(dataset, foreign, block) for block in blocks]
    first, again, ours = (sum(values) / len(blocks) for values in zip(*map(astuple, measured), strict=True))
    # A block whose chunks are decoded takes as long as the second reading; to decode them takes the rest of the first.
    decodings, bands = _decodings(foreign, layout), len(chunk_rows(foreign.arrays["x"]))
    decoded = min(1.0, bands * decodings / layout.blocks) if bands else 1.0
    return ReadingSpeed(ours / max(again + decoded * max(0.0, first - again), 1e-9), decodings)


def _decodings(foreign: Foreign, layout: Layout) -> float:
    """How often a chunk is decoded in an epoch: once if all of them stay in memory, otherwise for each of its
    blocks."""
    array = foreign.arrays["x"]
    bands = chunk_rows(array)
    if isinstance(array, Sparse) or not bands or sum(bands) / max(bands) * array.decoded_bytes <= CACHE_BYTES:
        return 1.0
    starts, begins = np.concatenate([[0], np.cumsum(bands)]), layout.block_starts()
    ends = np.append(begins[1:], layout.rows)
    touched = np.searchsorted(starts, ends, side="left") - np.searchsorted(starts, begins, side="right") + 1
    return float(touched.sum() / len(bands))


def _measure(dataset: Dataset, foreign: Foreign, block: int) -> _Seconds:
    start, stop = dataset.layout.block_range(block)
    spec, found = dataset.spec("x"), list[int]()
    rows = spec.empty(stop - start)
    ForeignReader(foreign).read("x", start, stop, rows)  # so that the file is in memory, as it often is in training
    reader = ForeignReader(foreign)
    began = perf_counter()
    reader.read("x", start, stop, rows)
    once = perf_counter()
    reader.read("x", start, stop, rows)
    twice = perf_counter()
    parts = encode_shard(spec, Layout(len(rows), len(rows), 1), rows, found)
    data = np.frombuffer(bytearray(b"".join(parts)[: found[0]]), np.uint8)
    out = np.empty_like(rows)
    decode_block(data, found[1], out)
    encoded = perf_counter()
    decode_block(data.copy(), found[1], out)
    return _Seconds(once - began, twice - once, perf_counter() - encoded)
