"""Train folds with Ray Train: its workers, their rendezvous, heartbeats and restarts.

Ray's controller also imports this module, so torch and its dependencies are imported only in the workers.
"""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from time import monotonic
from typing import Any

import psutil
import ray
import ray.train
from ray.exceptions import RayError
from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.backend import Backend

from ...storage.errors import AttemptError, FoldstreamError, RunError, StoppedError
from ...storage.machine import keep_freed_memory, no_garbage_collection
from ..stopping import STOP, Turns, catch_signals
from .group import START_SECONDS, GroupRequest, describe_failure, is_final
from .internals import START_TIMEOUT, TRAIN_SETTINGS, dead_ranks, make_trainer, start_autoscaling_coordinator
from .sharing import sharing_on, stream_share

MAX_FAILURES = 2  # restarts of the workers after which a driver gives up
HEARTBEAT_SECONDS = 1.0


class Rendezvous(Backend):  # type: ignore[misc]
    """Gives all workers the address where rank 0 will listen, in the environment variables of torch.distributed, and
    lets a signal to one worker stop all of them."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_set_environment, MASTER_ADDR=address, MASTER_PORT=str(port))
        worker_group.execute(catch_signals)


def _free_address() -> tuple[str, int]:
    """The address of this node, and a free port on it."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, int(probe.getsockname()[1])


def _set_environment(**variables: str) -> None:
    """Set environment variables, and make Gloo use the interface of Ray's node: by default it uses the address of the
    hostname, which is on loopback on many systems."""
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

    Ray Train restarts the workers after every exception, except exceptions raised by a callback.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        error = _cause(worker_exceptions)
        if is_final(error) or (isinstance(error, StoppedError) and ray.get(self.driver.note_stopped.remote())):
            raise error
        asked = "the workers were asked to stop; other workers resume from their checkpoints"
        ray.get(self.driver.replace.remote(asked if isinstance(error, StoppedError) else str(error)))


def _cause(failures: Mapping[int, Exception]) -> FoldstreamError:
    """Why the workers failed, given the exception of each rank. An error that would recur takes precedence. If some
    workers have died, the others failed because of them."""
    final = {rank: error for rank, error in failures.items() if is_final(error)}
    if not final and (dead := dead_ranks(failures)):
        return AttemptError(f"worker {', '.join(map(str, dead))} died")
    rank, error = min((final or failures).items())
    if isinstance(error, FoldstreamError):
        return error
    kind = RunError if final else AttemptError
    return kind(f"worker {rank}: {describe_failure(error).reason}")


class Heartbeat:
    """Sends the heartbeats of a worker: call it at every step, and it sends one about once per second.

    Before anything is written, the driver must respond. If the driver is gone, another attempt may be running, and a
    worker that was suspended for a while must not write: RayActorError ends it.
    """

    def __init__(self, driver: Any, rank: int) -> None:
        self.driver, self.rank, self.group = driver, rank, ray.get(driver.group.remote())
        self.longest, self.last, self.sent = 0.0, monotonic(), 0.0
        threading.Thread(target=self._report_alive, name="foldstream-heartbeat", daemon=True).start()

    def _report_alive(self) -> None:
        from ...storage.places.requests import silence

        node = ray.get_runtime_context().get_node_id()
        with suppress(RayError):  # the driver has ended
            while True:
                if ray.get(self.driver.report_alive.remote(self.rank, self.group, node)):
                    STOP.set()
                if silence() > HEARTBEAT_SECONDS:  # the training loop waits for an object store
                    self(working=False)
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
        AttemptError: The workers failed too often.
        RunError: A worker raised an exception that a restart would raise again.
    """
    for name, value in {**TRAIN_SETTINGS, START_TIMEOUT: str(START_SECONDS)}.items():
        os.environ.setdefault(name, value)
    start_autoscaling_coordinator()
    # Ray's own snapshots are temporary; our checkpoints are in the run.
    with tempfile.TemporaryDirectory(prefix="foldstream-ray-") as folder:
        _fit(request, driver, folder)


def _fit(request: GroupRequest, driver: Any, folder: str) -> None:
    each = {"GPU" if request.use_gpu else "CPU": 1.0, "memory": float(stream_share(ray.nodes()))}
    trainer = make_trainer(
        _train_worker,
        backend_config=RendezvousConfig(),
        train_loop_config={"request": request, "driver": driver},
        scaling_config=ScalingConfig(
            num_workers=request.request.world_size, use_gpu=request.use_gpu, resources_per_worker=each
        ),
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
        if isinstance(cause, FoldstreamError):  # of `Restarts`
            raise cause from None
        raise (_cause(failures) if failures else AttemptError(str(error).strip().splitlines()[-1])) from None


def _train_worker(config: dict[str, Any]) -> None:
    """The training function of each worker."""
    with no_garbage_collection():
        import torch
        import torch._dynamo  # which torch's optimizers load at their first step
        import torch.distributed as dist
        from ray.train.torch import get_device

        from ...storage.places.requests import expect_stores
        from ..engine.process import Process
        from .worker import torchrun_variables, train_group, worker_threads

    expect_stores()
    context, device, mail, turns = ray.train.get_context(), get_device(), None, Turns()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if workers > 1:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store: Any = dist.TCPStore(*where, workers, rank == 0)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        own = dist.PrefixStore("group", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=own, rank=rank, world_size=workers)
        turns = Turns(store.clone(), rank, workers)
        mail = dist.new_group(backend="gloo") if device.type == "cuda" else None
    if device.type == "cpu":
        torch.set_num_threads(worker_threads())
        keep_freed_memory()
    request: GroupRequest = config["request"]
    locally = context.get_local_rank(), context.get_local_world_size(), context.get_node_rank()
    node, number = ray.get_runtime_context().get_node_id(), request.first + rank
    sharing = sharing_on(ray.nodes(), node, request.use_gpu, number, locally[1], request.others)
    process = Process(rank, workers, device, mail, turns, sharing=sharing)
    os.environ.update(torchrun_variables(process, *locally))
    with STOP.watched(), closing(turns):
        train_group(request, process, Heartbeat(config["driver"], rank))
    if workers > 1:
        dist.destroy_process_group()
