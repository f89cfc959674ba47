"""Weighted sampling keeps its promises for any folds, subsets, weights, world sizes and positions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.settings import plan_sampling
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from foldstream.training.stream.batch import Rank
from foldstream.training.stream.filters import EveryRow, RowFilter, SubsetFilter, training_rows
from foldstream.training.stream.fused import FusedStream
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.sampling import draw as drawn
from foldstream.training.stream.single import TrainStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import convert_file

ROWS, FOLDS = 700, 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes of 4, 16 and 80 % of the rows, the first two at the beginning; weights from 0 to some hundred."""
    root, random = tmp_path_factory.mktemp("sampled"), np.random.default_rng(0)
    labels = np.repeat(["rare", "some", "most"], [ROWS // 25, 4 * ROWS // 25, ROWS - 5 * (ROWS // 25)])
    labels[ROWS // 2 :] = random.permutation(labels[ROWS // 2 :])
    weights = np.where(random.random(ROWS) < 0.1, 0, random.exponential(1, ROWS) ** 3)
    lines = [f"{i % 90},{label},{weight:.4f}" for i, (label, weight) in enumerate(zip(labels, weights, strict=True))]
    (root / "rows.csv").write_text("\n".join(["x,label,w", *lines, ""]))
    return convert_file(root / "rows.csv", root / "rows.zarr", label="label", roles={"weight": ("w",)})


def column(dataset: Dataset, name: str) -> np.ndarray:
    return BlockReader(dataset, (name,)).read(range(dataset.layout.blocks))[name]


def sample(dataset: Dataset, rows: RowFilter, options: Sequence[str], seed: int = 0) -> RowFilter:
    return drawn(dataset, {0: rows}, plan_sampling(dataset.schema, options), seed)[0]


def draw_rows(dataset: Dataset, draw: st.DataObject) -> tuple[RowFilter, np.ndarray]:
    """A filter, and how often it has each row."""
    chosen = np.ones(len(dataset), np.int64)
    match draw.draw(st.sampled_from(["all", "fold", "subset", "repeated"]), label="rows"):
        case "fold":
            plan = make_plan(dataset, Split(folds=FOLDS), Path(dataset.root).with_suffix(".folds"))
            rows: RowFilter = training_rows(plan, draw.draw(st.integers(0, FOLDS - 1)))
            return rows, rows.mask(range(dataset.layout.blocks)).astype(np.int64)
        case "subset":
            chosen = (np.random.default_rng(draw.draw(st.integers(0, 9))).random(len(dataset)) < 0.3).astype(np.int64)
            return SubsetFilter(dataset.layout, chosen > 0), chosen
        case "repeated":
            indices = np.random.default_rng(draw.draw(st.integers(0, 9))).integers(0, len(dataset), 300)
            return SubsetFilter(dataset.layout, indices), np.bincount(indices, minlength=len(dataset))
    return EveryRow(dataset.layout), chosen


def uses(stream: TrainStream, rows: int) -> np.ndarray:
    """How often each row comes in an epoch, (rows,)."""
    return np.bincount(np.concatenate([batch.id.numpy() for batch in stream]), minlength=rows)


FACTORS: dict[tuple[str, ...], dict[str, float]] = {
    ("balanced",): {},
    ("weight",): {},
    ("rare=5",): {"rare": 5},
    ("rare=0", "some=2.5"): {"rare": 0, "some": 2.5},
}
OPTIONS = list(FACTORS)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_each_row_is_drawn_as_often_as_its_weight_asks_for(dataset: Dataset, draw: st.DataObject) -> None:
    rows, chosen = draw_rows(dataset, draw)
    options, epoch = draw.draw(st.sampled_from(OPTIONS)), draw.draw(st.integers(0, 3))
    mixing = Mixing(
        draw.draw(st.integers(8, 40)), window=draw.draw(st.integers(1, 9)), seed=draw.draw(st.integers(0, 3))
    )
    sampled = sample(dataset, rows, options, mixing.seed)
    found = uses(TrainStream(dataset, sampled, mixing, Rank(threads=2), epoch), len(dataset))
    y = column(dataset, "y")
    total, of_classes = chosen.sum(), np.bincount(y, chosen, 3)
    factors = np.array([FACTORS[options].get(name, 1) for name in dataset.schema.classes])
    if options == ("balanced",):
        factors = 1 / np.maximum(of_classes, 1)
    weights = chosen * (column(dataset, "column_w") if options == ("weight",) else factors[y])
    expected = total * weights / weights.sum()
    assert found.sum() == total
    assert not found[weights == 0].any()
    rounded = 0 if options == ("weight",) else 1 / np.maximum(of_classes, 1)[y]  # a class has whole draws
    assert (np.abs(found - expected) < 1 + 1e-9 + rounded).all()
    if options != ("weight",):
        assert (np.abs(np.bincount(y, found, 3) - np.bincount(y, expected, 3)) < 1).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_sampled_batches_are_the_same_at_any_world_size_position_and_in_one_pass(
    dataset: Dataset, draw: st.DataObject
) -> None:
    options, epoch = draw.draw(st.sampled_from(OPTIONS)), draw.draw(st.integers(0, 3))
    mixing = Mixing(draw.draw(st.integers(8, 40)), window=draw.draw(st.integers(1, 9)), seed=5)
    plan = make_plan(dataset, Split(folds=FOLDS), Path(dataset.root).with_suffix(".folds"))
    training: dict[int, RowFilter] = {fold: training_rows(plan, fold) for fold in range(FOLDS)}
    rows = drawn(dataset, training, plan_sampling(dataset.schema, options), mixing.seed)
    alone = [batch.id.tolist() for batch in TrainStream(dataset, rows[1], mixing, Rank(threads=2), epoch)]
    every = [row for batch in alone for row in batch]
    step, world_size = draw.draw(st.integers(0, len(alone))), draw.draw(st.sampled_from([1, 2, 8]))
    for rank in range(world_size):
        fused = FusedStream(dataset, {1: rows[1], 3: rows[3]}, mixing, Rank(rank, world_size, threads=2))
        read = fused.read(epoch, {1: step, 3: 5})
        found = [row for group, batch, _ in read if group.model == 1 for row in batch.id.tolist()]
        first = step * mixing.batch_size
        assert found == [row for place, row in enumerate(every) if place >= first and place % world_size == rank]


def test_over_many_epochs_every_row_of_a_class_comes_equally_often(dataset: Dataset) -> None:
    sampled, epochs = sample(dataset, EveryRow(dataset.layout), ("balanced",)), 300
    every = range(dataset.layout.blocks)
    total = sum(sampled.mask(every, epoch) for epoch in range(epochs))
    y = column(dataset, "y")
    expected = epochs * len(dataset) / 3 / np.bincount(y)[y]
    assert (np.abs(total - expected) < 5 * np.sqrt(epochs) / 2).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nobody=2",), "no class 'nobody'"),
        (("balanced", "rare=2"), "no class 'balanced'"),
        (("rare=0", "some=0", "most=0"), "none can be drawn"),
    ],
)
def test_what_cannot_be_drawn_is_refused(dataset: Dataset, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sample(dataset, EveryRow(dataset.layout), options)
