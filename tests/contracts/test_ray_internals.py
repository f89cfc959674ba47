"""What Foldstream uses of Ray beyond its public API, against the Ray that is installed.

After an upgrade of Ray, a failure here names the internal that has moved, and where Foldstream uses it.
"""

import importlib
import inspect
import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from foldstream.cluster.loopback import ALONE
from foldstream.cluster.ray.auth import make_token
from foldstream.storage.errors import RunError
from foldstream.training.ray import internals
from foldstream.training.ray.train import Restarts
from ray.train import FailureConfig, RunConfig, ScalingConfig

ADAPTER = "training/ray/internals.py"
SIGNATURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ray._private.worker:get_dashboard_url": ("dashboard_of_connected_cluster", ()),
    "ray._private.state:GlobalState.get_max_resources_from_cluster_config": ("most_cores", ("self",)),
    "ray._private.state:GlobalState._connect_and_get_accessor": ("orphaned_placement_groups", ("self",)),
    "ray._private.state:GlobalState.get_draining_nodes": ("draining_nodes", ("self",)),
    "ray._private.node:Node.live_processes": ("node_processes", ("self",)),
    "ray._private.node:Node.remaining_processes_alive": ("tests/chaos/node_cluster.py", ("self",)),
    "ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator:get_or_create_autoscaling_coordinator": (
        "start_autoscaling_coordinator",
        (),
    ),
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks": ("make_trainer", ("self",)),
    "ray.train.v2._internal.callbacks:DatasetsCallback": ("make_trainer", ("train_run_context", "datasets")),
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback": (
        "make_trainer",
        ("check_interval_s", "get_actor_timeout_s", "stop_timeout"),
    ),
    "ray.train.v2._internal.exceptions:WorkerHealthCheckFailedError": ("dead_ranks", ("message", "failure")),
    "ray.train._internal.base_worker_group:BaseWorkerGroup.execute": (
        "Rendezvous in training/ray/train.py",
        ("self", "func", "args", "kwargs"),
    ),
    "ray.train._internal.base_worker_group:BaseWorkerGroup.execute_single": (
        "Rendezvous in training/ray/train.py",
        ("self", "worker_index", "func", "args", "kwargs"),
    ),
}
"""Each private function, method and class, with its user (a function of the adapter, or a file) and its parameters."""


def load(name: str, user: str) -> Any:
    """What a name `module:attribute` stands for. Fails with a message that says where it is used."""
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in attributes.split(".") if attributes else ():
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"Ray {ray.__version__} has moved {name} ({error}), which {ADAPTER} needs for {user}")
    return found


@contextmanager
def use(name: str, user: str) -> Iterator[None]:
    """Have an assertion that fails inside say which internal behaves in another way, and where it is used."""
    try:
        yield
    except (AssertionError, AttributeError, TypeError) as error:
        pytest.fail(f"Ray {ray.__version__} has changed {name}, which {ADAPTER} needs for {user}: {error!r}")


@pytest.mark.parametrize("name", SIGNATURES, ids=lambda name: name.rpartition(":")[2])
def test_an_internal_is_in_its_place_with_its_parameters(name: str) -> None:
    user, parameters = SIGNATURES[name]
    with use(name, user):
        assert tuple(inspect.signature(load(name, user)).parameters) == parameters


def test_ray_has_the_pinned_minor_version() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    major, minor = ray.__version__.split(".")[:2]
    assert f"ray[default,train]>={major}.{minor},<{major}.{int(minor) + 1}" in project


@pytest.mark.parametrize("argument", ["_memory", "_node_ip_address"])
def test_ray_init_takes_the_private_arguments_of_start_node(argument: str) -> None:
    with use(f"the argument {argument} of ray.init", "start_node"):
        assert f"``{argument}``" in (ray.init.__doc__ or "")


def test_the_constant_that_keeps_loopback_is_the_one_that_its_variable_sets() -> None:
    name, user = "ray._private.ray_constants:ENABLE_RAY_CLUSTER", "loopback_address_kept"
    assert load("ray._private.ray_constants:ENABLE_RAY_CLUSTERS_ENV_VAR", user) == ALONE
    before = load(name, user)
    resolve: Callable[[str], str] = load("ray._private.services:resolve_ip_for_localhost", user)
    with internals.loopback_address_kept(), use(name, user):
        assert load("ray._private.services:get_node_ip_address", user)() in ("127.0.0.1", "::1")
        assert resolve("10.1.2.3") == "10.1.2.3"
    assert load(name, user) == before


def test_the_placement_group_table_says_who_has_died() -> None:
    table: Any = load("ray.core.generated.gcs_pb2:PlacementGroupTableData", "orphaned_placement_groups")
    fields = {"placement_group_id", "creator_job_id", "creator_actor_dead", "state"}
    with use("PlacementGroupTableData", "orphaned_placement_groups"):
        assert fields <= set(table.DESCRIPTOR.fields_by_name)
        assert "REMOVED" in table.PlacementGroupState.keys()  # noqa: SIM118


@pytest.mark.parametrize("name", internals.UPLOAD_LOGGERS)
def test_uploads_are_logged_under_these_names(name: str) -> None:
    module = load(f"{name}.packaging" if name.endswith("runtime_env") else name, "silence_upload_logs")
    with use(f"the logger {name}", "silence_upload_logs"):
        assert module.__name__ in logging.root.manager.loggerDict


@pytest.mark.parametrize(
    ("variable", "constant"),
    [
        ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "ray.train.v2._internal.constants:HEALTH_CHECK_INTERVAL_S_ENV_VAR"),
        ("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "ray.train.v2._internal.constants:ENABLE_PREEMPTION_WATCHER_ENV_VAR"),
        ("RAY_TRAIN_ENABLE_STATE_TRACKING", "ray.train.constants:RAY_TRAIN_ENABLE_STATE_TRACKING"),
        (internals.START_TIMEOUT, "ray.train.v2._internal.constants:WORKER_GROUP_START_TIMEOUT_S_ENV_VAR"),
    ],
)
def test_ray_train_reads_the_variables_that_we_set(variable: str, constant: str) -> None:
    assert variable in (*internals.TRAIN_SETTINGS, internals.START_TIMEOUT)
    assert load(constant, "TRAIN_SETTINGS") == variable


def test_the_trainer_has_all_callbacks_of_ray_but_two(tmp_path: Path) -> None:
    options = {
        "scaling_config": ScalingConfig(num_workers=1),
        "run_config": RunConfig(name="contract", storage_path=str(tmp_path)),
    }
    name = "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer"
    theirs: Any = load(name, "make_trainer")(print, **options)
    ours = internals.make_trainer(print, **options)
    with use(f"{name}._create_default_callbacks", "make_trainer"):
        kinds = [[type(callback).__name__ for callback in one._create_default_callbacks()] for one in (theirs, ours)]
        assert set(kinds[0]) - set(kinds[1]) == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        assert len(kinds[0]) - len(kinds[1]) == 2
        assert isinstance(ours, type(theirs))


def test_a_dead_worker_is_told_from_one_that_raised() -> None:
    name = "ray.train.v2._internal.exceptions:WorkerHealthCheckFailedError"
    dead: Any = load(name, "dead_ranks")("gone", RuntimeError())
    with use(name, "dead_ranks"):
        failures = {2: pickle.loads(pickle.dumps(dead)), 1: ValueError(), 0: dead}  # noqa: S301
        assert internals.dead_ranks(failures) == [0, 2]


def test_an_exception_of_a_callback_ends_a_run_and_one_of_a_worker_restarts_it() -> None:
    name, user = "ray.train.v2._internal.execution.failure_handling:create_failure_policy", "Restarts in train.py"
    policy: Any = load(name, user)(FailureConfig(max_failures=1))
    with use(name, user):
        ended = policy.make_decision(ray.train.ControllerError(RunError("a damaged shard")))
        again = policy.make_decision(ray.train.WorkerGroupError("failed", {0: ValueError()}))
        assert (ended.name, again.name) == ("RAISE", "RETRY")
        cause = pickle.loads(pickle.dumps(ray.train.ControllerError(RunError("a damaged shard"))))  # noqa: S301
        assert isinstance(cause.controller_failure, RunError)
    with use("ray.train.UserCallback.after_exception", user):
        parameters = tuple(inspect.signature(ray.train.UserCallback.after_exception).parameters)
        assert tuple(inspect.signature(Restarts.after_exception).parameters) == parameters


def test_a_node_is_started_where_we_say_and_is_known_to_its_cluster() -> None:
    name = "ray._private.worker:global_worker"
    limits = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False, "log_to_driver": False}
    make_token()
    try:
        with internals.loopback_address_kept():
            internals.start_node("127.0.0.1", 1 << 30, **limits)
        with use("ray.init", "start_node"):
            assert ray.util.get_node_ip_address() == "127.0.0.1"
            assert ray.cluster_resources()["memory"] == 1 << 30
        with use(name, "cluster_of_this_node"):
            cluster = internals.cluster_of_this_node()
            assert cluster.address == ray.get_runtime_context().gcs_address
        with use("ray._private.worker:get_dashboard_url", "dashboard_of_connected_cluster"):
            assert not internals.dashboard_of_connected_cluster()
        with use("ray._private.state:state", "most_cores"):
            assert internals.most_cores() == 0
        with use("ray._private.state:state", "orphaned_placement_groups"):
            assert list(internals.orphaned_placement_groups()) == []
    finally:
        ray.shutdown()
