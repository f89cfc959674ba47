"""The stream keeps the promises of the order for any blocks, filters, lanes, world sizes and positions.

The sequences themselves are compared, not their sorted rows.
"""

from dataclasses import dataclass
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.fold_plan import FoldPlan
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from foldstream.training.stream.batch import Batch, Rank
from foldstream.training.stream.filters import Both, EveryRow, RowFilter, SubsetFilter, held_out_rows, training_rows
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.rows import RowStream
from foldstream.training.stream.single import TrainStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ..conftest import convert_file, table

FOLDS = 4


@dataclass(frozen=True)
class Data:
    """Three datasets of 7, 300 and 997 rows with a fold plan each, and all their rows in memory."""

    datasets: tuple[Dataset, ...]
    folds: tuple[FoldPlan, ...]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("streams")
    datasets = []
    for rows in (40, 300, 997):
        csv = root / f"{rows}.csv"
        csv.write_text(table(rows, seed=rows))
        datasets.append(convert_file(csv, root / f"{rows}.zarr", label="label"))
    plans = tuple(make_plan(d, Split(kind="kfold", folds=FOLDS), d.root.with_suffix(".folds")) for d in datasets)
    return Data(tuple(datasets), plans)


@dataclass(frozen=True)
class Case:
    dataset: Dataset
    rows: RowFilter
    chosen: np.ndarray
    mixing: Mixing
    epoch: int


def draw_case(data: Data, draw: st.DataObject) -> Case:
    """A dataset, a filter with the rows that it should choose, and a mixing that fits."""
    number = draw.draw(st.integers(0, 2), label="dataset")
    dataset, plan = data.datasets[number], data.folds[number]
    chosen = np.ones(len(dataset), bool)
    rows: RowFilter = EveryRow(dataset.layout)
    if draw.draw(st.booleans(), label="fold"):
        from foldstream.storage.blocks.reader import BlockReader

        fold = draw.draw(st.integers(0, FOLDS - 1))
        rows = training_rows(plan, fold)
        chosen &= BlockReader(plan, ("fold",)).read(range(dataset.layout.blocks))["fold"] != fold
    if draw.draw(st.booleans(), label="subset"):
        share = draw.draw(st.sampled_from([0.02, 0.3, 0.9]))
        subset = np.random.default_rng(draw.draw(st.integers(0, 9))).random(len(dataset)) < share
        rows = Both(dataset.layout, rows, SubsetFilter(dataset.layout, subset))
        chosen &= subset
    lanes = draw.draw(st.sampled_from([8, 16]), label="lanes")
    size, window = draw.draw(st.integers(16, 50), label="batch size"), draw.draw(st.integers(1, 9))
    least = draw.draw(st.sampled_from([1, size]), label="least")
    mixing = Mixing(size, lanes, window, draw.draw(st.integers(0, 3)), least)
    return Case(dataset, rows, chosen, mixing, draw.draw(st.integers(0, 3), label="epoch"))


def stream(case: Case, rank: int = 0, world_size: int = 1, threads: int = 2) -> TrainStream:
    return TrainStream(case.dataset, case.rows, case.mixing, Rank(rank, world_size, threads=threads), case.epoch)


def global_batches(case: Case, world_size: int, step: int = 0) -> list[list[int]]:
    """The ids of each global batch in its own order, put together from all ranks: they have its rows in turn."""
    parts = []
    for rank in range(world_size):
        of_rank = stream(case, rank, world_size)
        of_rank.move(case.epoch, step)
        parts.append([batch.id.tolist() for batch in of_rank])
    batches, first = [], step * case.mixing.batch_size
    for of_ranks in zip(*parts, strict=True):
        size, rows = sum(map(len, of_ranks)), [iter(part) for part in of_ranks]
        batches.append([next(rows[row % world_size]) for row in range(first, first + size)])
        first += size
    return batches


examples = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@examples
@given(st.data())
def test_world_sizes_and_resumed_streams_give_the_same_batches(data: Data, draw: st.DataObject) -> None:
    case = draw_case(data, draw)
    alone = global_batches(case, 1)
    fitting = [size for size in range(1, case.mixing.lanes + 1) if case.mixing.lanes % size == 0]
    step = draw.draw(st.integers(0, len(alone)), label="step")
    assert global_batches(case, draw.draw(st.sampled_from(fitting), label="world size"), step) == alone[step:]


@examples
@given(st.data())
def test_no_row_comes_twice_and_each_has_its_own_values(data: Data, draw: st.DataObject) -> None:
    from foldstream.storage.blocks.reader import BlockReader

    case = draw_case(data, draw)
    batches = list(stream(case))
    ids = np.concatenate([np.zeros(0, np.int64), *(batch.id.numpy() for batch in batches)])
    assert len(set(ids.tolist())) == len(ids)
    assert case.chosen[ids].all()
    assert 0 <= case.chosen.sum() - len(ids) < case.mixing.least
    stored = BlockReader(case.dataset, ("x", "y")).read(range(case.dataset.layout.blocks))
    assert {len(batch.id) for batch in batches[:-1]} <= {case.mixing.batch_size}
    for batch in batches:
        np.testing.assert_array_equal(batch.x.numpy(), stored["x"][batch.id.numpy()])
        np.testing.assert_array_equal(batch.y.numpy(), stored["y"][batch.id.numpy()])


@examples
@given(st.data())
def test_every_chosen_row_is_evaluated_once(data: Data, draw: st.DataObject) -> None:
    case = draw_case(data, draw)
    world_size, size = draw.draw(st.integers(1, 11)), draw.draw(st.sampled_from([1, 7, 512]))
    ranks = [RowStream(case.dataset, case.rows, Rank(rank, world_size), size) for rank in range(world_size)]
    ids = [i for of_rank in ranks for batch in of_rank for i in batch.id.tolist()]
    assert sorted(ids) == np.flatnonzero(case.chosen).tolist()


@examples
@given(st.data())
def test_folds_partition_the_rows(data: Data, draw: st.DataObject) -> None:
    number = draw.draw(st.integers(0, 2))
    dataset, folds = data.datasets[number], data.folds[number]
    blocks = draw.draw(st.lists(st.integers(0, dataset.layout.blocks - 1), min_size=1, max_size=20))
    inside = [held_out_rows(folds, fold) for fold in range(FOLDS)]
    assert (np.sum([rows.mask(blocks) for rows in inside], axis=0) == 1).all()
    fold = draw.draw(st.integers(0, FOLDS - 1))
    np.testing.assert_array_equal(inside[fold].mask(blocks), ~training_rows(folds, fold).mask(blocks))
    np.testing.assert_array_equal(sum(rows.kept() for rows in inside), dataset.layout.block_sizes())


def whole(dataset: Dataset, **mixing: int) -> TrainStream:
    return TrainStream(dataset, EveryRow(dataset.layout), Mixing(**{"batch_size": 48, "window": 3, **mixing}))


def ids(batches: list[Batch]) -> list[list[int]]:
    return [batch.id.tolist() for batch in batches]


def test_one_epoch_follows_the_other(digits: Dataset) -> None:
    rows = whole(digits)
    first, second = ids(list(rows)), ids(list(rows))
    assert first != second
    assert (rows.epoch, rows.step) == (2, 0)
    rows.move(1, 0)
    assert ids(list(rows)) == second


def test_the_state_is_the_place_after_the_last_batch(digits: Dataset) -> None:
    rows, other = whole(digits), whole(digits)
    undisturbed = ids(list(other))
    started = iter(rows)
    taken = ids([next(started) for _ in range(5)])
    state = rows.state_dict()
    assert taken == undisturbed[:5]
    assert (state["epoch"], state["step"]) == (0, 5)
    other.load_state_dict(state)
    assert len(other) == len(undisturbed) - 5
    assert ids(list(other)) == undisturbed[5:]


def test_transforms_draw_the_same_numbers_after_a_resume(digits: Dataset) -> None:
    def noise(batch: Batch, generator: torch.Generator) -> Batch:
        return batch._replace(x=batch.x + torch.rand(batch.x.shape, generator=generator))

    def noisy() -> TrainStream:
        return TrainStream(digits, EveryRow(digits.layout), Mixing(48), transform=noise)

    undisturbed, resumed = list(noisy()), noisy()
    resumed.move(0, 9)
    for batch, expected in zip(resumed, undisturbed[9:], strict=True):
        assert torch.equal(batch.x, expected.x)
    assert not torch.equal(undisturbed[0].x.frac(), undisturbed[1].x.frac())


def test_the_stream_works_in_a_data_loader(digits: Dataset) -> None:
    assert ids(list(DataLoader(whole(digits), batch_size=None))) == ids(list(whole(digits)))


def test_a_data_loader_that_would_batch_the_batches_is_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match=r"use DataLoader\(stream, batch_size=None\)"):
        next(iter(DataLoader(whole(digits), batch_size=4)))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"batch_size": 32}, "batch_size"), ({"seed": 1}, "seed"), ({"rows": np.arange(50)}, "rows"), ({}, "dataset")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_state_of_another_stream_is_refused(
    options: dict[str, Any], name: str, digits: Dataset, data: Data
) -> None:
    state = fs.stream(digits, batch_size=64).state_dict()
    other = fs.stream(digits if options else data.datasets[2], **{"batch_size": 64, **options})
    with pytest.raises(UsageError, match=f"a stream with {name}="):
        other.load_state_dict(state)
    with pytest.raises(UsageError, match="result of its state_dict"):
        other.load_state_dict({"epoch": 0})


def test_a_state_that_is_loaded_within_an_iteration_ends_it(digits: Dataset) -> None:
    rows = whole(digits)
    for number, _ in enumerate(started := iter(rows)):
        if number == 3:
            break
    rows.load_state_dict(rows.state_dict())
    with pytest.raises(UsageError, match="was moved during this iteration"):
        next(started)
    assert ids(list(rows)) == ids(list(whole(digits)))[4:]


def test_rows_in_order_have_a_length_and_a_position(digits: Dataset) -> None:
    rows = fs.stream(digits, split="test", fold=0, batch_size=7)
    expected = ids(list(rows))
    assert len(rows) == len(expected)
    taken = iter(rows)
    for _ in range(5):
        next(taken)
    state = rows.state_dict()
    resumed = fs.stream(digits, split="test", fold=0, batch_size=7)
    resumed.load_state_dict(state)
    assert len(resumed) == len(expected) - 5
    assert ids(list(resumed)) == expected[5:]
    assert ids(list(resumed)) == expected
    with pytest.raises(UsageError, match="belongs to a different stream"):
        fs.stream(digits, split="test", batch_size=8).load_state_dict(state)


def test_rows_that_are_repeated_come_again(digits: Dataset) -> None:
    chosen = np.array([3, 900, 3, 5, 3])
    train = fs.stream(digits, rows=chosen, batch_size=2)
    assert [len(batch.id) for batch in train] == [2, 2, 1]
    assert sorted(row for batch in ids(list(train)) for row in batch) == [3, 3, 3, 5, 900]
    assert [row for batch in ids(list(fs.stream(digits, rows=chosen, split="test"))) for row in batch] == [
        3,
        3,
        3,
        5,
        900,
    ]
    assert [len(batch.id) for batch in fs.stream(digits, rows=chosen, batch_size=2, drop_last=True)] == [2, 2]


def test_worker_processes_are_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="num_workers=0"):
        list(DataLoader(whole(digits), batch_size=None, num_workers=1, multiprocessing_context="spawn"))


def test_a_world_size_that_does_not_divide_the_lanes_is_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="use 1, 2, 4, 8"):
        TrainStream(digits, EveryRow(digits.layout), Mixing(48), Rank(0, 3))


def test_memory_that_cannot_suffice_is_refused(digits: Dataset) -> None:
    with pytest.raises(UsageError, match="--memory 1,000 bytes: 8 lanes with windows"):
        TrainStream(digits, EveryRow(digits.layout), Mixing(48), Rank(memory=1000))


def test_memory_changes_no_batch(digits: Dataset) -> None:
    """Blocks that stay decoded, few of them or all, are those that are read again otherwise."""
    least = whole(digits).memory_needed
    two_epochs = []
    for memory in (least, least + len(digits) * 300, 1 << 30):
        rows = TrainStream(digits, EveryRow(digits.layout), Mixing(48, window=3), Rank(memory=memory))
        two_epochs.append([[(batch.id.tolist(), batch.x.sum().item()) for batch in rows] for _ in range(2)])
    assert two_epochs[0] == two_epochs[1] == two_epochs[2]


def test_batches_that_are_kept_are_not_written_over(digits: Dataset) -> None:
    rows = whole(digits, window=1, batch_size=16)
    kept, copies = [], []
    for _ in range(3):
        for batch in rows:
            kept.append(batch.x)
            copies.append(batch.x.clone())
    assert all(map(torch.equal, kept, copies))


def test_two_iterations_at_once_do_not_disturb_each_other(digits: Dataset) -> None:
    rows = whole(digits)
    expected = [batch.x.clone() for batch in rows]
    rows.move(0, 0)
    one = iter(rows)
    first = [next(one).x.clone()]
    other = [batch.x.clone() for batch in rows]
    first += [batch.x.clone() for batch in one]
    assert all(map(torch.equal, other, expected))
    assert all(map(torch.equal, first, expected))
