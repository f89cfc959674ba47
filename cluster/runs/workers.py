"""How a run is trained where the user does not say: in this process and others beside it, or by workers on Ray.

Torch is only loaded where there may be GPUs to count.
"""

import sys
from pathlib import Path

from ...storage.dataset import Dataset
from ...storage.machine import stream_memory, this_machine
from ..requests import TrainRequest

USUAL_WORKERS = 2
HELP_ROWS = 100_000
"""Rows to train on, over all epochs and models, from which other processes pay: they take seconds to start."""
PROCESS_BYTES = 1 << 30
"""The memory of a process that trains, beside the data."""
GPU_DEVICES = "nvidia[0-9]*", "kfd", "dxg"
"""What drivers of NVIDIA, AMD and Windows put into /dev."""


def ray_is_connected() -> bool:
    """Whether this process is connected to a Ray cluster."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def gpu_count() -> int:
    """The GPUs that torch can use in this process."""
    if not any(found for name in GPU_DEVICES for found in Path("/dev").glob(name)):
        return 0
    import torch

    return int(torch.cuda.device_count())


def choose_workers(request: TrainRequest, dataset: Dataset) -> int:
    """The number of workers: 0 for this process.

    It is enough for data that stay in memory once they are read. A Ray cluster that is connected is there to be used,
    and so are several GPUs.
    """
    if request.workers is not None:
        return request.workers
    gpus = gpu_count()
    if gpus > 1 or ray_is_connected():
        return min(USUAL_WORKERS, gpus or USUAL_WORKERS)
    return 0 if gpus or copies_in_memory(dataset) else USUAL_WORKERS


def copies_in_memory(dataset: Dataset) -> int:
    """How many processes of this machine can keep all blocks of a dataset after the first epoch."""
    return stream_memory() // (len(dataset) * sum(spec.row_bytes for spec in dataset.manifest.arrays))


def shares_of(workers: int) -> int:
    """The shares of each batch of a new run.

    On CPUs, this process, one worker and two get the same weights. A single GPU would compute two shares one after the
    other.
    """
    return max(1, workers) if gpu_count() else max(USUAL_WORKERS, workers)


def helper_count(request: TrainRequest, dataset: Dataset, models: int) -> int:
    """How many other processes train along with this one: one for each core and model, where that pays and the memory
    allows it."""
    if request.workers is not None or choose_workers(request, dataset) or gpu_count() or request.fold_mode == "runs":
        return 0
    if len(dataset) * models * request.epochs < HELP_ROWS:
        return 0
    machine = this_machine()
    room = min(machine.memory // 2 // PROCESS_BYTES, copies_in_memory(dataset))
    return max(1, min(machine.cores, models, room)) - 1
