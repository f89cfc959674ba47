"""Runs and processes side by side share a machine's memory: what their streams hold together, and what Ray counts."""

import json
import os
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cluster.ray.job_cluster import ray_cluster
from foldstream.cluster.runs import workers
from foldstream.cluster.runs.journal import Journal
from foldstream.storage.dataset import Dataset
from foldstream.storage.machine import STREAM_PART, stream_memory, this_machine
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

pytestmark = pytest.mark.long

RUNS = 3
MODEL = """
import gc, json, os
from pathlib import Path
import ray
from torch import nn
from foldstream.training.stream.decoded import DecodedBlocks

def make(sample_shape, outputs, told):
    return nn.Sequential(Tells(told), nn.Flatten(), nn.Linear(784, outputs))

class Tells(nn.Module):
    '''Tells what the streams of its process may keep decoded, and what Ray has given to it.'''

    def __init__(self, told):
        super().__init__()
        self.told = Path(told) / str(os.getpid())

    def forward(self, x):
        every = [one for one in gc.get_objects() if type(one) is DecodedBlocks]
        streams = [one for one in every if "x" in [spec.name for spec in one.specs]]
        if streams and self.training and not self.told.exists():
            kept = [b.kept * b.dataset.layout.block_rows * sum(s.row_bytes for s in b.specs) for b in streams]
            asked = ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {}
            self.told.write_text(json.dumps([sum(kept), asked.get("memory", 0)]))
        return x
"""


def train_and_tell(data: Dataset, folder: Path, **options: Any) -> tuple[list[int], list[float]]:
    """Train a run in a folder. Returns for each process what its streams may hold, and the memory it asked Ray for."""
    told, code = folder / "told", folder / "own.py"
    told.mkdir()
    code.write_text(MODEL)
    own: dict[str, Any] = {"model": f"{code}:make", "settings": {"told": str(told)}, "epochs": 1, "batch_size": 64}
    fs.train(data.root, folder / "run", **own, **options)
    streams, asked = zip(*(json.loads(file.read_text()) for file in told.iterdir()), strict=True)
    return list(streams), list(asked)


def test_runs_side_by_side_stay_within_the_memory_of_their_node(digits: Dataset, tmp_path: Path) -> None:
    with ray_cluster(RUNS):
        streams, asked = train_and_tell(digits, tmp_path, folds=RUNS, workers=1, fold_mode="runs")
    lines = list(Journal(RunFolder(locate(tmp_path / "run")).journal).lines())
    begun = [number for number, line in enumerate(lines) if "start" in line]
    ended = [number for number, line in enumerate(lines) if line.get("event") == "Ended"]
    assert len(begun) == RUNS
    assert max(begun) < min(ended), "all trained at the same time"
    assert len(streams) == RUNS
    assert 0.8 * stream_memory() < sum(streams) <= stream_memory()
    assert asked == [this_machine().memory // max(RUNS, this_machine().cores) // STREAM_PART] * RUNS


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_processes_that_train_beside_each_other_stay_within_the_memory_of_their_machine(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "HELP_ROWS", 0)
    streams, _ = train_and_tell(digits, tmp_path, folds=2)
    assert len(streams) == 2
    assert 0.8 * stream_memory() < sum(streams) <= stream_memory()
