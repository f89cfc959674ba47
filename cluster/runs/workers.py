"""How many workers train where the user does not say: none besides this process, as long as it is enough."""

import sys

import torch

from ...storage.machine import this_machine

ENOUGH_SECONDS = 60.0
"""Up to so long, one process is as fast as two workers, which take that much of it to start."""
USUAL_WORKERS = 2


def ray_is_connected() -> bool:
    """Whether this process is connected to a Ray cluster. Does not import Ray."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def choose_workers(seconds: float) -> int:
    """The number of workers for about so many seconds of one process: 0 for this process.

    A Ray cluster that is connected is there to be used, and so are several GPUs.
    """
    gpus = torch.cuda.device_count()
    if gpus > 1 or ray_is_connected():
        return min(USUAL_WORKERS, gpus or USUAL_WORKERS)
    return 0 if gpus or this_machine().cores < USUAL_WORKERS or seconds <= ENOUGH_SECONDS else USUAL_WORKERS


def shares_of(workers: int | None) -> int:
    """The shares of each batch of a new run, for so many workers, None if they are not chosen yet.

    On CPUs this process, one worker and two get the same weights. A single GPU would compute two shares one after the
    other.
    """
    gpus = torch.cuda.device_count()
    if gpus == 1 or (workers is None and gpus):
        return workers or min(USUAL_WORKERS, gpus)
    return max(USUAL_WORKERS, workers or 0)
