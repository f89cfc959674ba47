"""Train in this process with Ray Train's local mode: no cluster is started, and breakpoints work.

The weights are the same as with workers on one machine: the same torch threads, and the same shares of every batch.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ray.train import ScalingConfig

from ...storage.machine import Sharing, freed_memory_kept, logging_from
from ..engine.loop import Heartbeat
from ..engine.process import Process
from ..stopping import STOP
from .group import GroupRequest
from .internals import make_trainer
from .worker import torchrun_variables, train_group, worker_threads


def train_here(request: GroupRequest, heartbeat: Heartbeat = lambda working: None) -> None:
    """Train folds in this process, and return when all are complete. Raises the errors of training and of `heartbeat`,
    which is called between steps."""
    # Ray Train logs that it runs in local mode, and every report.
    with logging_from(logging.WARNING, "ray.train"), STOP.watched():
        options = {"request": request, "heartbeat": heartbeat}
        make_trainer(_train, train_loop_config=options, scaling_config=ScalingConfig(num_workers=0)).fit()


def _train(config: dict[str, Any]) -> None:
    """The training function. Since this process belongs to the user, its settings are restored afterwards."""
    request: GroupRequest = config["request"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    process = Process(device=device, sharing=Sharing(request.first, 1 + request.others))
    with _settings_restored(), freed_memory_kept(), torch.random.fork_rng(devices=[]):
        os.environ.update(torchrun_variables(process, 0, 1, 0))
        if process.device.type == "cpu":
            torch.set_num_threads(worker_threads())
        train_group(request, process, config["heartbeat"])


@contextmanager
def _settings_restored() -> Iterator[None]:
    """Restore torch's settings and the environment on exit."""
    threads, environment = torch.get_num_threads(), dict(os.environ)
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        os.environ.clear()
        os.environ.update(environment)
