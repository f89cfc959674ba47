"""How fast foreign features are read, compared with a copy of them: from the geometry of their chunks, and a short
measurement of decoding."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ...storage.blocks.shards import decode_block, encode_shard
from ...storage.dataset import Dataset
from ...storage.foreign.cache import CACHE_BYTES
from ...storage.foreign.format import Foreign, Sparse, chunk_rows
from ...storage.foreign.reader import ForeignReader
from ...storage.format import Layout

SAMPLES = 3  # blocks that are measured
SLOW = 0.7  # times the speed of a copy, below which a copy is advised


@dataclass(frozen=True)
class ReadingSpeed:
    """The rows per second of reading in place as a share of those of a copy, and how often each chunk is decoded in an
    epoch."""

    share: float
    decodings: float

    def describe(self) -> str:
        """A sentence, with the remedy if reading in place is slow."""
        said = f"read in place, at about {min(self.share, 9.99):.2g} times the speed of a copy"
        if self.share >= SLOW:
            return said
        why = f"; each chunk is decoded {self.decodings:.0f} times an epoch" if self.decodings >= 1.5 else ""
        return f"{said}{why}; 'foldstream adopt … --copy' makes a copy"


def compare_speed(dataset: Dataset) -> ReadingSpeed | None:
    """Compare the reading of foreign features in one thread with that of a copy; None for a dataset without them."""
    foreign = dataset.foreign
    if foreign is None:
        return None
    layout, array = dataset.layout, foreign.arrays["x"]
    blocks = np.unique(np.linspace(0, layout.blocks - 1, SAMPLES).astype(int)).tolist()
    ours, first, again = 0.0, 0.0, 0.0
    for block in blocks:
        start, stop = layout.block_range(block)
        out = dataset.spec("x").empty(stop - start)
        _time(lambda: ForeignReader(foreign).read("x", start, stop, out))  # so that the file is in memory, as later
        reader = ForeignReader(foreign)
        first += _time(lambda: reader.read("x", start, stop, out))
        again += _time(lambda: reader.read("x", start, stop, out))
        ours += _own_time(dataset, out)
    of_epoch = layout.blocks / len(blocks)
    decodings = _decodings(foreign, layout)
    bands = max(1, len(chunk_rows(array)))
    # A block that finds its chunks decoded takes as long as the second reading, and each decoding the rest of the first.
    costs = again * of_epoch + max(0.0, first - again) / len(blocks) * (bands * decodings if decodings < of_epoch else layout.blocks)
    return ReadingSpeed(ours * of_epoch / max(costs, 1e-9), decodings)


def _decodings(foreign: Foreign, layout: Layout) -> float:
    """How often a chunk is decoded in an epoch: once if all of them stay in memory, otherwise for each of its blocks."""
    array = foreign.arrays["x"]
    bands = chunk_rows(array)
    if isinstance(array, Sparse) or not bands or sum(bands) / max(bands) * array.decoded_bytes <= CACHE_BYTES:
        return 1.0
    starts = np.concatenate([[0], np.cumsum(bands)])
    begins = layout.block_starts()
    ends = np.append(begins[1:], layout.rows)
    touched = np.searchsorted(starts, ends, side="left") - np.searchsorted(starts, begins, side="right") + 1
    return float(touched.sum() / len(bands))


def _own_time(dataset: Dataset, rows: np.ndarray) -> float:
    """How long a block of ours with these rows takes to decode."""
    spec, found = dataset.spec("x"), list[int]()
    parts = encode_shard(spec, Layout(len(rows), len(rows), 1), rows, found)
    data = np.frombuffer(bytearray(b"".join(parts)[: found[0]]), np.uint8)
    out = np.empty_like(rows)
    decode_block(data, found[1], out)
    return _time(lambda: decode_block(data, found[1], out)) + _time(lambda: data.copy())


def _time(function: Callable[[], object]) -> float:
    started = perf_counter()
    function()
    return perf_counter() - started
