"""How the fold mode is chosen: by memory, free nodes and a short trial."""

import pytest
from foldstream.cluster.runs.fold_mode import choose_fold_mode, faster_mode
from foldstream.cluster.runs.run import make_units
from foldstream.cluster.runs.schedule import Resources
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.config import Execution, TrainConfig
from foldstream.training.model.row_costs import RowCosts, measure_row_costs
from foldstream.training.run import RunJob
from foldstream.training.stream.batch import Rank
from foldstream.training.stream.filters import EveryRow
from foldstream.training.stream.fused import FusedStream
from foldstream.training.stream.order import Mixing

FOLDS = ("fold 0", "fold 2", "lr=0.1 fold 3")


def test_folds_are_one_unit_or_each_its_own() -> None:
    required = Resources(2, 2, 200)
    divided = {groups: [unit.folds for unit in make_units(FOLDS, groups, required).values()] for groups in (1, 2, 3)}
    assert divided == {1: [FOLDS], 2: [FOLDS[:2], FOLDS[2:]], 3: [(fold,) for fold in FOLDS]}
    assert list(make_units(FOLDS, 2, required)) == ["fold-0-to-fold-2", "lr=0.1-fold-3"]
    assert {unit.required for unit in make_units(FOLDS, 2, required).values()} == {required}


def test_the_fold_mode_follows_from_the_memory(digits: Dataset) -> None:
    config = TrainConfig()
    assert choose_fold_mode(digits, 5, config, Execution(workers=2), 1000)[0] == "fused"
    mode, reason = choose_fold_mode(digits, 5, config, Execution(workers=2), 10**12)
    assert mode == "runs"
    assert "5 models at once would need 100.00 TB" in reason
    rows = dict.fromkeys(range(5), EveryRow(digits.layout))
    needed = FusedStream(digits, rows, Mixing(config.batch_size), Rank(0, 2)).memory_needed
    enough, short = (
        Execution(workers=2, memory=needed, fold_mode="fused"),
        Execution(workers=2, memory=needed - 1, fold_mode="fused"),
    )
    assert choose_fold_mode(digits, 5, config, enough, 1000)[0] == "fused"
    with pytest.raises(UsageError, match="--fold-mode runs"):
        choose_fold_mode(digits, 5, config, short, 1000)


@pytest.mark.parametrize(
    ("reading", "training", "room", "mode"),
    [(1e-3, 1e-5, 2, "fused"), (1e-6, 1e-3, 2, "runs"), (1e-6, 1e-3, 1, "fused"), (1e-3, 1e-3, 5, "runs")],
    ids=["reading counts", "training counts", "no room", "room for all"],
)
def test_what_a_row_costs_decides_where_several_runs_fit(reading: float, training: float, room: int, mode: str) -> None:
    chosen, reason = faster_mode(RowCosts(reading, training), 5, room, 10_000, 2)
    assert chosen == mode
    assert f"with {room} runs at once" in reason


def test_a_trial_tells_what_a_row_costs(digits: Dataset) -> None:
    config = TrainConfig(model="mlp", batch_size=64)
    job = RunJob(str(digits.root), digits.identity, digits.schema, config)
    costs = measure_row_costs(job)
    assert 0 < costs.reading < 1e-2
    assert 0 < costs.training < 1e-2
