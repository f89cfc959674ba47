"""How a run is trained where the user does not say: in this process and one that helps it, or by workers on Ray.

Torch is only loaded where there may be GPUs to count.
"""

import sys
from pathlib import Path

from ...storage.machine import this_machine
from ...training.ray.helper import RANKS
from ..requests import TrainRequest

USUAL_WORKERS = 2
HELP_ROWS = 100_000
"""Rows to train on, over all epochs and models, from which a second process pays: it takes seconds to start."""
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


def choose_workers(request: TrainRequest) -> int:
    """The number of workers: 0 for this process. A Ray cluster that is connected is there to be used, and so are
    several GPUs."""
    if request.workers is not None:
        return request.workers
    gpus = gpu_count()
    return min(USUAL_WORKERS, gpus or USUAL_WORKERS) if gpus > 1 or ray_is_connected() else 0


def shares_of(request: TrainRequest) -> int:
    """The shares of each batch of a new run.

    On CPUs, this process, one worker and two get the same weights. A single GPU would compute two shares one after the
    other.
    """
    workers = choose_workers(request)
    return max(1, workers) if gpu_count() else max(USUAL_WORKERS, workers)


def is_helped(request: TrainRequest, shares: int, rows: int, models: int) -> bool:
    """Whether a second process trains along, for so many rows of an epoch and models: each of the two trains models of
    its own, on the CPU."""
    pays = models >= RANKS and rows * models * request.epochs >= HELP_ROWS and request.fold_mode != "runs"
    local = request.workers is None and not choose_workers(request) and not gpu_count()
    return pays and local and shares == RANKS <= this_machine().cores
