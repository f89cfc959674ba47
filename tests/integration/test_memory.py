"""What a stream holds is bounded by its memory, whatever the size of the data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from foldstream.storage.format.layout import Layout

from ..datasets import write_dataset

EPOCH = Path(__file__).parents[1] / "benchmarks" / "epoch.py"


def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(start, stop)
    return np.repeat((numbers % 251).astype(np.uint8)[:, None], 1000, axis=1), (numbers % 10).astype(np.uint8)


def peak(root: Path, rows: int) -> int:
    dataset = write_dataset(root, rows, make, layout=Layout(rows, block_rows=250, shard_blocks=50))
    command = [sys.executable, str(EPOCH), str(dataset.root), "2", "50MB"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def test_ten_times_the_rows_need_the_same_memory(tmp_path: Path) -> None:
    small, large = peak(tmp_path / "small", 60_000), peak(tmp_path / "large", 600_000)
    assert abs(large / small - 1) < 0.05, (small, large)
