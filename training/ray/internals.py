"""Ray's internals: the only file that imports, subclasses or overrides anything that Ray does not export.

Each entry explains why the public API is not sufficient. `tests/contracts/test_ray_internals.py` checks that the
installed Ray still has all of them, and `pyproject.toml` pins the minor version. Importing this module imports only
`ray`: Ray Train takes a second to import, so functions that need it import it themselves.
"""

import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.state import state
from ray._private.worker import get_dashboard_url, global_worker
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.util.placement_group import PlacementGroup

# ----------------------------------------------------------------------------------------------------- Nodes, clusters


def start_node(address: str, memory: int | None = None, **options: Any) -> Any:
    """Start a Ray cluster of one node that listens on `address` and offers `memory` bytes, and connect to it.

    The other options and the return value are those of `ray.init`. `ray.init` replaces the SIGTERM handler; a handler
    that this process has set is restored.

    Private: the arguments `_node_ip_address` and `_memory` of `ray.init`. Publicly, only the command `ray start`
    accepts a node's address and memory, and it leaves processes behind when this one is killed.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return ray.init("local", _node_ip_address=address, _memory=memory, **options)
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def node_processes() -> list[int]:
    """The ids of the processes of the node that `start_node` started. They start all others, such as the workers.

    Private: the node of `global_worker`. Nothing public tells them from the other child processes of this one.
    """
    return [process.pid for _, process in global_worker.node.live_processes()]


@contextmanager
def loopback_address_kept() -> Iterator[None]:
    """Make Ray keep a loopback address: by default it replaces it with the machine's own address, and thus listens on
    all interfaces.

    Private: the constant `ENABLE_RAY_CLUSTER`. Its public form is the environment variable
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER, which Ray reads only once, when it is imported.
    """
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def cluster_of_this_node() -> Any:
    """A `ray.cluster_utils.Cluster` whose head is the node that `start_node` started in this process.

    Private: the node of `global_worker`. `ray.init` does not find a head that `Cluster` itself starts on loopback.
    """
    from ray.cluster_utils import Cluster

    cluster = Cluster(shutdown_at_exit=False)
    cluster.head_node = global_worker.node
    return cluster


def dashboard_of_connected_cluster() -> str | None:
    """Host and port of the dashboard of the connected cluster; None if it has no dashboard.

    Private: `get_dashboard_url`. Publicly, it is only returned by the `ray.init` call that connects, which the user
    made; calling it again would replace the user's SIGTERM handler.
    """
    url: str | None = get_dashboard_url()
    return url


def most_cores() -> int:
    """Maximum number of cores to which the autoscaler may grow the connected cluster; 0 if it has no autoscaler.

    Private: `get_max_resources_from_cluster_config`. `ray.cluster_resources` counts only the nodes currently running.
    """
    return int((state.get_max_resources_from_cluster_config() or {}).get("CPU", 0))


def draining_nodes() -> frozenset[str]:
    """The ids of draining nodes, i.e. nodes about to be preempted, as signaled by the cloud or by SIGTERM to `ray
    start`.

    Private: `get_draining_nodes`. Ray Train's public API, `get_preemption_info`, needs a separate actor for each group
    of workers.
    """
    return frozenset(state.get_draining_nodes())


def orphaned_placement_groups() -> Iterator[PlacementGroup]:
    """The placement groups of this job that still exist although the actors that created them have died.

    Private: the placement group table itself. `ray.util.placement_group_table` and `ray.util.state` do not report
    whether the creator is alive, and the latter queries the dashboard, which may time out on a busy machine.
    """
    job = ray.get_runtime_context().get_job_id()
    for data in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(data)
        removed = group.state == PlacementGroupTableData.REMOVED
        if group.creator_actor_dead and group.creator_job_id.hex() == job and not removed:
            yield PlacementGroup(ray.PlacementGroupID(group.placement_group_id))


UPLOAD_LOGGERS = "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env"


def silence_upload_logs() -> None:
    """Make a `JobSubmissionClient` log only warnings, and not every upload.

    Private: the names of Ray's loggers. The client has no option for this, and silencing all of `ray` would hide more.
    """
    for name in UPLOAD_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


# ----------------------------------------------------------------------------------------------------------- Ray Train

TRAIN_SETTINGS = {
    # How often the controller polls its workers, which every report waits for.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",
    # The coordinator watches for preemptions; Ray's watcher is one more process.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # For Ray's dashboard.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
}
"""Environment variables read by Ray Train. Its public classes have no arguments for these settings."""
START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""The environment variable with the timeout in seconds for starting the workers."""


def start_autoscaling_coordinator() -> None:
    """Start the actor from which Ray Train's controller requests resources.

    Private: `get_or_create_autoscaling_coordinator`. The controller also starts it, but waits for it; started here, it
    starts in parallel with the controller.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )

    get_or_create_autoscaling_coordinator()


def make_trainer(train_loop_per_worker: Any, **options: Any) -> Any:
    """Ray's data-parallel trainer without two actors that folds do not need: one serves Ray's own datasets, and one
    monitors reservations, which the coordinator releases itself. The arguments are those of `TorchTrainer`.

    Private: `DataParallelTrainer`, the base class of the public `TorchTrainer`, which would make a fold's driver and
    controller import torch; and its method `_create_default_callbacks`, since no option disables a callback. Together,
    this saves eight seconds before the first step on two cores.
    """
    from ray.train.v2._internal.callbacks import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            needless = DatasetsCallback, PlacementGroupCleanerCallback
            return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]

    return LeanTrainer(train_loop_per_worker, **options)


def dead_ranks(failures: Mapping[int, Exception]) -> list[int]:
    """The ranks whose processes have died, given the exception of each failed rank.

    Private: `WorkerHealthCheckFailedError`, with which Ray Train replaces a dead worker's exception. Its public base
    class is `Exception`.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    return [rank for rank, error in sorted(failures.items()) if isinstance(error, WorkerHealthCheckFailedError)]
