"""Choose how to train a run if the user does not specify it: in this process with helpers, or with workers on Ray.

Torch is only imported if there may be GPUs to count.
"""

import sys
from pathlib import Path

from ...storage.dataset import Dataset
from ...storage.machine import stream_memory, this_machine
from ..requests import TrainRequest

USUAL_WORKERS = 2
HELP_ROWS = 100_000
"""Minimum number of rows, over all epochs and models, for helper processes to pay off: they take seconds to start."""
PROCESS_BYTES = 1 << 30
"""Memory of a training process, in addition to the data."""
GPU_DEVICES = "nvidia[0-9]*", "kfd", "dxg"
"""Device files of NVIDIA, AMD and Windows GPU drivers in /dev."""


def ray_is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def gpu_count() -> int:
    """Number of GPUs that torch can use in this process."""
    if not any(found for name in GPU_DEVICES for found in Path("/dev").glob(name)):
        return 0
    import torch

    return int(torch.cuda.device_count())


def choose_workers(request: TrainRequest, dataset: Dataset) -> int:
    """The number of workers: 0 for this process.

    This process is enough for a dataset that stays in memory once read. A connected Ray cluster is used, and so are
    several GPUs.
    """
    if request.workers is not None:
        return request.workers
    gpus = gpu_count()
    if gpus > 1 or ray_is_connected():
        return min(USUAL_WORKERS, gpus or USUAL_WORKERS)
    return 0 if gpus or copies_in_memory(dataset) else USUAL_WORKERS


def copies_in_memory(dataset: Dataset) -> int:
    """Number of processes on this machine that can keep all blocks of a dataset in memory after the first epoch."""
    return stream_memory() // (len(dataset) * sum(spec.row_bytes for spec in dataset.manifest.arrays))


def shares_of(workers: int) -> int:
    """Number of shares into which a new run divides each batch.

    On CPUs, this process, one worker and two workers produce the same weights. A single GPU would compute two shares
    one after the other.
    """
    return max(1, workers) if gpu_count() else max(USUAL_WORKERS, workers)


def helper_count(request: TrainRequest, dataset: Dataset, models: int, epochs: int) -> int:
    """Number of helper processes that train alongside this one: one per core and model, if it pays off and the memory
    allows it."""
    if request.workers is not None or choose_workers(request, dataset) or gpu_count() or request.fold_mode == "runs":
        return 0
    if len(dataset) * models * epochs < HELP_ROWS:
        return 0
    machine = this_machine()
    room = min(machine.memory // 2 // PROCESS_BYTES, copies_in_memory(dataset))
    return max(1, min(machine.cores, models, room)) - 1
