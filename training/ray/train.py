"""Ray Train: the one place that knows it.

Ray's TorchTrainer would have a fold's driver and its controller load torch, one after the other, and start two
processes that serve Ray's own datasets and watch over reservations, which the coordinator frees itself. On two cores
these are eight seconds before the first step, so the trainer below is Ray's data-parallel one without them.
"""

import os
import tempfile
import threading
import time
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psutil
import ray
import ray.train
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator
from ray.train import BackendConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from ...storage.errors import AttemptError, FoldstreamError, RunError
from ..zoo.user_code import noted, noting_lines
from .group import START_SECONDS, GroupRequest

MAX_FAILURES = 2  # deaths of workers after which a driver gives up
BEAT_SECONDS = 1.0
FINAL = FoldstreamError, TypeError, ValueError, LookupError, AttributeError, NameError, ArithmeticError, AssertionError
"""What a worker raises that it would raise again: nobody's death causes these."""


class MeetingPoint(Backend):  # type: ignore[misc]
    """Tells all workers where the first one will wait for them, by the variables that torch.distributed reads."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_environment, MASTER_ADDR=address, MASTER_PORT=str(port))


def _set_environment(**variables: str) -> None:
    """Also have Gloo listen where Ray's node does: it would take the address that the host's name has, which many
    systems put on loopback."""
    own = ray.util.get_node_ip_address()
    for interface, addresses in psutil.net_if_addrs().items():
        if own in (address.address for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    os.environ.update(variables)


class MeetingPointConfig(BackendConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[Backend]:
        return MeetingPoint


class FoldsTrainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray's data-parallel trainer, without the processes that folds have no use for."""

    def _create_default_callbacks(self) -> list[Any]:
        needless = DatasetsCallback, PlacementGroupCleanerCallback
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy = Retries(self.run_config.failure_config)
        return super()._initialize_and_run_controller(**options | {"failure_policy": policy})


class Restarts(UserCallback):  # type: ignore[misc]
    """Tells the driver that Ray Train starts the workers anew, and why."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ray.get(self.driver.replace.remote(_reason(worker_exceptions)))


def _reason(failures: Mapping[int, Exception]) -> str:
    """Why workers are replaced, from what each rank has raised: where some have died, the others miss them."""
    dead = [str(rank) for rank, error in sorted(failures.items()) if isinstance(error, WorkerHealthCheckFailedError)]
    if dead:
        return f"worker {', '.join(dead)} has died"
    rank, error = min(failures.items(), key=lambda one: (not isinstance(one[1], FINAL), one[0]))
    return str(error) if isinstance(error, FoldstreamError) else f"worker {rank}: {noted(error)}"


def _is_final(failures: Mapping[int, Exception]) -> bool:
    """Whether what the ranks have raised would come again."""
    dead = any(isinstance(error, WorkerHealthCheckFailedError) for error in failures.values())
    return not dead and any(isinstance(error, FINAL) for error in failures.values())


class Retries(DefaultFailurePolicy):  # type: ignore[misc]
    """Ray's policy, but what would fail again is not tried again."""

    def _is_retryable_error(self, training_failed_error: TrainingFailedError) -> bool:
        final = _is_final(getattr(training_failed_error, "worker_failures", {}))
        return not final and super()._is_retryable_error(training_failed_error)


class Pulse:
    """A worker's beats: at every step it may send one, and does so about once a second.

    Before something is written the driver must answer. If it is gone, another attempt may be under way, for which a
    worker that was stopped for a while must not write: RayActorError ends it.
    """

    def __init__(self, driver: Any, rank: int) -> None:
        self.driver, self.rank, self.group = driver, rank, ray.get(driver.group.remote())
        self.longest, self.last, self.sent = 0.0, monotonic(), 0.0
        threading.Thread(target=self._live, name="foldstream-pulse", daemon=True).start()

    def _live(self) -> None:
        while True:
            self.driver.live.remote(self.rank, self.group)
            time.sleep(BEAT_SECONDS)

    def __call__(self, working: bool = True) -> None:
        now = monotonic()
        if self.sent and working:
            self.longest = max(self.longest, now - self.last)
        self.last = now
        if now - self.sent > BEAT_SECONDS or not working:
            self.sent = now
            heard = self.driver.beat.remote(self.rank, self.group, self.longest, working)
            if not working:
                ray.get(heard)


def train_folds(request: GroupRequest, driver: Any) -> None:
    """Train folds with Ray Train on the cluster that is connected, and return when all are done.

    Workers that die are started again from the last checkpoint, MAX_FAILURES times; AttemptError comes after that.
    Raises RunError with the workers' own error where that would come again.
    """
    # The controller asks its workers how they are at this interval, and every report waits for it.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process more, for news that nobody asks for
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # for Ray's dashboard
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_SECONDS))
    get_or_create_autoscaling_coordinator()  # which the controller would wait for: this way they start together
    with tempfile.TemporaryDirectory(
        prefix="foldstream-ray-"
    ) as folder:  # Ray's own marks; our checkpoints are the run's
        _fit(request, driver, folder)


def _fit(request: GroupRequest, driver: Any, folder: str) -> None:
    trainer = FoldsTrainer(
        _train_worker,
        backend_config=MeetingPointConfig(),
        train_loop_config={
            "folds": request.folds,
            "memory": request.memory,
            "cache": request.cache,
            "checkpoints": request.checkpoints,
            "driver": driver,
        },
        scaling_config=ScalingConfig(num_workers=request.workers, use_gpu=request.use_gpu),
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
        told = _reason(failures) if failures else str(error).strip().splitlines()[-1]
        raise (RunError if _is_final(failures) else AttemptError)(told) from None


def _train_worker(config: dict[str, Any]) -> None:
    """What each worker does.

    Imports stand here because Ray's controller loads this module too, and would wait for torch and its friends.
    """
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device
    from ray.train.torch.config import _set_torch_distributed_env_vars

    from ...storage.errors import disk_in_words
    from ...storage.machine import keep_freed_memory
    from ...storage.object_path import locate
    from ..engine.loop import FoldTrainer
    from ..engine.process import Process
    from ..run import RunFold, RunFolder, is_done, load_job

    context, device, mail = ray.train.get_context(), get_device(), None
    rank, workers = context.get_world_rank(), context.get_world_size()
    _set_torch_distributed_env_vars()  # what torchrun tells a worker, a user's model may ask for
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if workers > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=workers)
        mail = dist.new_group(backend="gloo") if device.type == "cuda" else None
    process = Process(rank, workers, device, mail)
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # Ray sets it to the worker's CPUs
        keep_freed_memory()
    runs = {root: RunFolder(locate(root)) for root, _ in config["folds"]}
    jobs = {root: load_job(run) for root, run in runs.items()}
    left = [
        RunFold(jobs[root], runs[root], fold) for root, fold in config["folds"] if not is_done(runs[root].fold(fold))
    ]
    if any(one.job.config.recipe.deterministic for one in left):
        process.use_deterministic_algorithms()
    process.barrier()  # before one of them writes a mark
    if left:
        beat = Pulse(config["driver"], process.rank)
        with noting_lines(), disk_in_words(left[0].run.root):
            FoldTrainer(left, process, config["memory"], config["cache"], beat, config["checkpoints"]).train()
    ray.train.report({"folds": float(len(config["folds"]))})
    if workers > 1:
        dist.destroy_process_group()
