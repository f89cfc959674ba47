"""Training folds with Ray Train: its workers, their rendezvous, heartbeats and restarts.

Ray's controller imports this module too, so torch and its dependencies are imported in the workers only.
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psutil
import ray
import ray.train
from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.backend import Backend

from ...storage.errors import AttemptError, FoldstreamError, RunError
from ...storage.machine import keep_freed_memory, no_garbage_collection
from ..zoo.user_code import read_error_note
from .group import FINAL, START_SECONDS, GroupRequest
from .internals import START_TIMEOUT, TRAIN_SETTINGS, dead_ranks, make_trainer, start_autoscaling_coordinator

MAX_FAILURES = 2  # restarts of the workers after which a driver gives up
HEARTBEAT_SECONDS = 1.0


class Rendezvous(Backend):  # type: ignore[misc]
    """Gives all workers the address where rank 0 will listen, in the variables that torch.distributed reads."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_set_environment, MASTER_ADDR=address, MASTER_PORT=str(port))


def _free_address() -> tuple[str, int]:
    """The address of this node, and a port that is free there."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, int(probe.getsockname()[1])


def _set_environment(**variables: str) -> None:
    """Set environment variables, and have Gloo use the interface of Ray's node: by default it takes the address of the
    host's name, which many systems put on loopback."""
    own = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if own in (address.address for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.update(variables)


class RendezvousConfig(BackendConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[Backend]:
        return Rendezvous


class Restarts(UserCallback):  # type: ignore[misc]
    """Notifies the driver when workers fail, and ends the run if a restart would not help.

    Ray Train restarts the workers after every exception. It does not restart them after an exception of a callback.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        reason = _reason(worker_exceptions)
        ray.get(self.driver.replace.remote(reason))
        if _is_final(worker_exceptions):
            raise RunError(reason)


def _reason(failures: Mapping[int, Exception]) -> str:
    """Why the workers are restarted, given the exception of each rank: if some have died, the others failed because of
    them."""
    if dead := dead_ranks(failures):
        return f"worker {', '.join(map(str, dead))} has died"
    rank, error = min(failures.items(), key=lambda one: (not isinstance(one[1], FINAL), one[0]))
    return str(error) if isinstance(error, FoldstreamError) else f"worker {rank}: {read_error_note(error)}"


def _is_final(failures: Mapping[int, Exception]) -> bool:
    """Whether restarted workers would fail again in the same way."""
    return not dead_ranks(failures) and any(isinstance(error, FINAL) for error in failures.values())


class Heartbeat:
    """Sends the heartbeats of a worker: call it at every step, and it sends one about once a second.

    Before something is written, the driver must answer. If it is gone, another attempt may be under way, and a worker
    that was suspended for a while must not write: RayActorError ends it.
    """

    def __init__(self, driver: Any, rank: int) -> None:
        self.driver, self.rank, self.group = driver, rank, ray.get(driver.group.remote())
        self.longest, self.last, self.sent = 0.0, monotonic(), 0.0
        threading.Thread(target=self._report_alive, name="foldstream-heartbeat", daemon=True).start()

    def _report_alive(self) -> None:
        while True:
            self.driver.report_alive.remote(self.rank, self.group)
            time.sleep(HEARTBEAT_SECONDS)

    def __call__(self, working: bool = True) -> None:
        now = monotonic()
        if self.sent and working:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        if now - self.sent > HEARTBEAT_SECONDS or not working:
            self.sent = now
            answer = self.driver.heartbeat.remote(self.rank, self.group, self.longest, working)
            if not working:
                ray.get(answer)


def train_folds(request: GroupRequest, driver: Any) -> None:
    """Train folds with Ray Train on the connected cluster, and return when all are complete.

    Workers that die are restarted from the last checkpoint, up to MAX_FAILURES times.

    Raises:
        AttemptError: if they fail once more.
        RunError: with the exception of a worker, if a restart would raise it again.
    """
    for name, value in {**TRAIN_SETTINGS, START_TIMEOUT: str(START_SECONDS)}.items():
        os.environ.setdefault(name, value)
    start_autoscaling_coordinator()
    # Ray's own snapshots are temporary; our checkpoints are in the run.
    with tempfile.TemporaryDirectory(prefix="foldstream-ray-") as folder:
        _fit(request, driver, folder)


def _fit(request: GroupRequest, driver: Any, folder: str) -> None:
    trainer = make_trainer(
        _train_worker,
        backend_config=RendezvousConfig(),
        train_loop_config={"request": request, "driver": driver},
        scaling_config=ScalingConfig(num_workers=request.request.world_size, use_gpu=request.use_gpu),
        run_config=RunConfig(
            name=request.name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Restarts(driver)],
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, RunError):  # of `Restarts`
            raise RunError(str(cause)) from None
        message = _reason(failures) if failures else str(error).strip().splitlines()[-1]
        raise AttemptError(message) from None


def _train_worker(config: dict[str, Any]) -> None:
    """The training function of each worker."""
    with no_garbage_collection():
        import torch
        import torch._dynamo  # which torch's optimizers load at their first step
        import torch.distributed as dist
        from ray.train.torch import get_device

        from ..engine.process import Process
        from .worker import torchrun_variables, train_group, worker_threads

    context, device, mail = ray.train.get_context(), get_device(), None
    rank, workers = context.get_world_rank(), context.get_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if workers > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=workers)
        mail = dist.new_group(backend="gloo") if device.type == "cuda" else None
    if device.type == "cpu":
        torch.set_num_threads(worker_threads())
        keep_freed_memory()
    process = Process(rank, workers, device, mail)
    locally = context.get_local_rank(), context.get_local_world_size(), context.get_node_rank()
    os.environ.update(torchrun_variables(process, *locally))
    train_group(config["request"], process, Heartbeat(config["driver"], rank))
    if workers > 1:
        dist.destroy_process_group()
