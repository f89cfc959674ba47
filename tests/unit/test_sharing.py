"""Runs side by side on a machine share one budget of memory, one of disk, and its cores; Ray knows of their memory."""

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from foldstream.cluster.planning.estimate import Passes, TrainingEstimate
from foldstream.cluster.runs.durable_schedule import DurableSchedule
from foldstream.cluster.runs.fold_mode import FoldMode
from foldstream.cluster.runs.run import Trainers, make_units, ranks_beside, train_folds
from foldstream.cluster.runs.schedule import Resources
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.machine import Machine, Sharing, stream_memory, this_machine
from foldstream.storage.places.block_cache import FOLDER, default_budget
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import silent
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.ray.group import GroupRequest
from foldstream.training.ray.sharing import sharing_on, stream_share, worker_memory
from foldstream.training.run import RunFold, folds_of
from foldstream.training.stream import batch
from foldstream.training.stream.batch import Rank, open_cache
from foldstream.training.stream.filters import EveryRow
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.single import TrainStream

from .test_training import make_job

RUNS = 16


def node(name: str = "a", address: str = "10.0.0.1", alive: bool = True, **resources: float) -> Mapping[str, Any]:
    """A node as Ray describes it."""
    return {"NodeID": name, "NodeManagerAddress": address, "Alive": alive, "Resources": resources}


def ranks_of_runs() -> list[Rank]:
    """The ranks of 16 runs of one worker, all on one machine."""
    units = make_units([f"fold {number}" for number in range(RUNS)], RUNS, Resources(1))
    nodes = [node(CPU=RUNS)]
    return [
        Rank(sharing=sharing_on(nodes, "a", False, first, 1, others))
        for first, others in ranks_beside(units, 1).values()
    ]


def held(stream: TrainStream) -> int:
    """Bytes that a stream may hold: its batches, and the blocks that stay decoded."""
    block = stream.reader.dataset.layout.block_rows * stream.reader.row_bytes
    return stream.memory_needed + stream.blocks.kept * block


def test_runs_side_by_side_hold_an_eighth_of_the_memory_together(digits: Dataset) -> None:
    rows, mixing = EveryRow(digits.layout), Mixing(64)
    streams = [TrainStream(digits, rows, mixing, rank) for rank in ranks_of_runs()]
    together = sum(map(held, streams))
    assert 0.9 * stream_memory() < together <= stream_memory(), "each held an eighth before: twice the memory"
    alone = held(TrainStream(digits, rows, mixing, Rank()))
    assert 0.9 * stream_memory() < alone <= stream_memory()


def test_runs_side_by_side_share_the_disk_and_the_cores(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setattr(batch, "this_machine", lambda: Machine(RUNS, 1 << 30))
    remote = replace(digits, place=locate("s3://bucket/digits.zarr"))
    caches = [open_cache(remote, replace(rank, cache=1600)) for rank in ranks_of_runs()]
    assert [cache.limit for cache in caches if cache] == [100] * RUNS
    budget = default_budget()
    monkeypatch.setattr(batch, "default_budget", lambda: budget)  # the disk's free space changes meanwhile
    by_default = [open_cache(remote, rank) for rank in ranks_of_runs()]
    assert sum(cache.limit for cache in by_default if cache) <= budget
    assert {rank.on_machine.number for rank in ranks_of_runs()} == set(range(RUNS)), "each adopts blocks of its own"
    assert [rank.thread_count(digits) for rank in ranks_of_runs()] == [1] * RUNS


def test_parts_of_a_budget_never_exceed_it_unless_a_stream_needs_more() -> None:
    draw = random.Random(0)
    for _ in range(1000):
        budget, ranks = draw.randrange(1, 1 << 40), draw.randrange(1, 200)
        parts = [Sharing(number, ranks).part_of(budget) for number in range(ranks)]
        assert budget - ranks < sum(parts) <= budget
    assert Sharing(0, 16, 2).part_of(1600, needed=30) == 100
    assert Sharing(0, 16, 2).part_of(1600, needed=300) == 300, "what ran alone runs beside others"
    assert Sharing(0, 16, 2).part_of(1600, needed=900) == 800, "but needs no more than alone"


def test_a_stream_that_fits_alone_fits_beside_others(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, mixing = EveryRow(digits.layout), Mixing(64)
    needed = TrainStream(digits, rows, mixing, Rank(threads=1)).memory_needed
    monkeypatch.setattr(batch, "stream_memory", lambda: needed)
    beside = TrainStream(digits, rows, mixing, Rank(threads=1, sharing=Sharing(3, 16)))
    assert beside.blocks.kept == 0
    monkeypatch.setattr(batch, "stream_memory", lambda: needed - 1)
    with pytest.raises(UsageError, match="an eighth of the machine's memory"):
        TrainStream(digits, rows, mixing, Rank(threads=1, sharing=Sharing(3, 16)))


def test_a_rank_shares_its_machine_with_no_more_than_can_be_there() -> None:
    two = [node("a", CPU=4), node("b", "10.0.0.2", CPU=64, GPU=8), node("dead", alive=False, CPU=9)]
    assert sharing_on(two, "a", False, number=9, own=2, others=30) == Sharing(1, 4, 2)
    assert sharing_on(two, "b", False, number=9, own=2, others=30) == Sharing(9, 32, 2)
    assert sharing_on(two, "b", True, number=9, own=2, others=30) == Sharing(1, 8, 2)
    assert sharing_on(two, "b", False, number=1, own=2, others=0) == Sharing(1, 2, 2), "a run alone has it all"
    local = [node(name, "127.0.0.1", CPU=2) for name in "abc"]
    assert sharing_on(local, "b", False, number=0, own=1, others=30) == Sharing(0, 6, 1), "they are one machine"
    assert sharing_on([node(CPU=0.5)], "a", False, number=3, own=2, others=9) == Sharing(1, 2, 2)


def test_units_that_do_not_run_at_once_do_not_share() -> None:
    units = make_units("abc", 3, Resources(2))
    units |= make_units("z", 1, Resources(2), after=("a", "b", "c"))
    assert ranks_beside(units, 2) == {"a": (0, 4), "b": (2, 4), "c": (4, 4), "z": (0, 4)}
    assert ranks_beside(units, 1, most=2) == {"a": (0, 1), "b": (1, 1), "c": (0, 1), "z": (1, 1)}
    assert ranks_beside(make_units("abc", 1, Resources(2)), 2) == {"a-to-c": (0, 0)}


@pytest.mark.parametrize(
    ("mode", "passes", "expected"),
    [
        ("runs", 1, {"fold-0": (0, 4), "fold-1": (2, 4), "fold-2": (4, 4)}),
        ("fused", 2, {"fold-0-to-fold-1": (0, 2), "fold-2": (2, 2)}),
        ("fused", 1, {"fold-0-to-fold-2": (0, 0)}),
    ],
)
def test_units_are_told_of_those_that_train_at_the_same_time(
    mode: str, passes: int, expected: dict[str, tuple[int, int]], digits: Dataset, tmp_path: Path
) -> None:
    job, run = make_job(digits, tmp_path)
    folds = {f"fold {number}": RunFold(job, run, number) for number in range(3)}
    told: dict[str, tuple[int, int]] = {}

    def tell(schedule: DurableSchedule, request: Callable[[str], GroupRequest]) -> None:
        requests = map(request, schedule.state.units)
        told.update({one.name: (one.first, one.others) for one in requests})

    trainers = Trainers(FoldMode(mode, ""), Resources(2), tell, passes)
    train_folds(run, folds, Execution(workers=2), trainers, silent)
    assert told == expected


def test_memory_never_keeps_a_worker_from_a_free_core() -> None:
    draw = random.Random(1)
    for _ in range(1000):
        nodes = [
            node(str(number), CPU=draw.choice([0, 1, 3, 64]), GPU=draw.choice([0, 0, 8]), memory=draw.random() * 1e11)
            for number in range(draw.randrange(1, 6))
        ]
        asked = worker_memory(nodes)
        rooms = [one["Resources"] for one in nodes if one["Resources"]["CPU"] + one["Resources"]["GPU"]]
        assert all((room["CPU"] + room["GPU"]) * asked <= room["memory"] for room in rooms)
        assert asked > 0 or not rooms
    small, large = node("a", CPU=4, memory=8e9), node("b", CPU=4, memory=64e9)
    assert worker_memory([small, large]) == 2e9, "a worker fits on either"
    assert stream_share([small, large]) == 0.25e9, "and on a node that replaces one of them with less memory free"
    assert worker_memory([{**small, "Alive": False}, large]) == 16e9
    assert worker_memory([node(CPU=0, memory=1e9), large]) == 16e9, "a head without cores has no workers"
    assert worker_memory([]) == worker_memory([node(CPU=4)]) == 0


def test_the_plan_counts_the_workers_of_all_runs_of_a_node() -> None:
    plan = TrainingEstimate(1000, 3, Passes(5, 4.0, 1.0), 100, 2, 32, 1, 5, 10_000, 0.006, 0.001, on_node=10)
    assert plan.node_bytes == 10 * plan.worker_bytes


def test_processes_of_one_run_share_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ.get("LOCAL_WORLD_SIZE") is None
    assert Rank(3, 8).on_machine == Sharing(3, 8, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert Rank(3, 8).on_machine == Sharing(1, 2, 2)
    assert Rank(memory=5).memory_bound(9) == 5
    assert this_machine().memory // 8 == stream_memory()


def test_a_trainer_keeps_to_the_part_of_its_process(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path)
    trainer = FoldTrainer(folds_of(job, run, [0]), Process(sharing=Sharing(3, RUNS)))
    assert trainer.rank.on_machine == Sharing(3, RUNS)
