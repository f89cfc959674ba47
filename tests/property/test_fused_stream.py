"""One pass gives each model the batches of a stream of its own, from any position, and reads every block once."""

from collections import Counter
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.engine.fold_parallel import fill_up
from foldstream.training.engine.shares import Rows
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from foldstream.training.stream.batch import Rank
from foldstream.training.stream.filters import RowFilter, SubsetFilter, training_rows
from foldstream.training.stream.fused import FusedStream
from foldstream.training.stream.loads import schedule_loads
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.single import TrainStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import convert_file, table

FOLDS = 4


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """100, 300 and 2,997 rows."""
    root = tmp_path_factory.mktemp("fused")
    made = []
    for rows in (100, 300, 2997):
        (root / f"{rows}.csv").write_text(table(rows, seed=rows))
        made.append(convert_file(root / f"{rows}.csv", root / f"{rows}.zarr", label="label"))
    return made


def fold_filters(dataset: Dataset) -> dict[int, RowFilter]:
    plan = make_plan(dataset, Split(kind="kfold", folds=FOLDS), Path(dataset.root).with_suffix(".folds"))
    return {fold: training_rows(plan, fold) for fold in range(FOLDS)}


def own_batches(stream: TrainStream, epoch: int, step: int) -> list[list[torch.Tensor]]:
    stream.move(epoch, step)
    return [[tensor.clone() for tensor in batch] for batch in stream]


def fused_batches(stream: FusedStream, epoch: int, steps: Mapping[int, int]) -> dict[int, list[list[torch.Tensor]]]:
    got: dict[int, list[list[torch.Tensor]]] = {model: [] for model in steps}
    for group, rows, _ in stream.read(epoch, steps):
        sizes = group.sizes(stream.reader.rank.rank, stream.reader.rank.world_size)
        batches = zip(*(torch.split(tensor.clone(), sizes) for tensor in rows), strict=True)
        for step, batch in zip(group.steps, batches, strict=True):
            assert step == steps[group.model] + len(got[group.model])
            got[group.model].append(list(batch))
    return got


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_every_model_gets_the_batches_of_its_own_stream(draw: st.DataObject, datasets: list[Dataset]) -> None:
    dataset = datasets[draw.draw(st.integers(0, 2), label="dataset")]
    filters = fold_filters(dataset)
    if draw.draw(st.booleans(), label="subsets"):  # models that keep very different numbers of rows
        for model in filters:
            share = draw.draw(st.sampled_from([0.1, 0.5, 1.0]))
            chosen = np.random.default_rng(model).random(len(dataset)) < share
            filters[model] = SubsetFilter(dataset.layout, chosen)
    models = draw.draw(st.sets(st.sampled_from(range(FOLDS)), min_size=1), label="models")
    size, window = draw.draw(st.integers(8, 24), label="batch size"), draw.draw(st.integers(1, 9), label="window")
    mixing = Mixing(size, 8, window, 3, draw.draw(st.sampled_from([1, size]), label="least"))
    world_size, epoch = draw.draw(st.sampled_from([1, 2, 8]), label="world"), draw.draw(st.integers(0, 2))
    place = Rank(draw.draw(st.integers(0, world_size - 1)), world_size, threads=2)
    fused = FusedStream(dataset, {model: filters[model] for model in models}, mixing, place)
    steps = {model: draw.draw(st.integers(0, fused.order(model, epoch).steps)) for model in models}
    for at in (epoch, epoch + 1):  # the second epoch uses the first one's memory again
        got = fused_batches(fused, at, steps)
        for model in models:
            own = own_batches(TrainStream(dataset, filters[model], mixing, place), at, steps[model])
            assert len(got[model]) == len(own)
            for one, other in zip(got[model], own, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_rank_reads_each_of_its_blocks_once_an_epoch(world_size: int, datasets: list[Dataset]) -> None:
    dataset = datasets[2]
    for seed in range(5):
        for rank in range(world_size):
            stream, read = counting_stream(dataset, Mixing(16, 8, 4, seed), rank, world_size)
            for _ in stream.read(0, dict.fromkeys(range(FOLDS), 0)):
                pass
            orders = [stream.order(fold, 0) for fold in range(FOLDS)]
            loads = (load.part for order in orders for load in schedule_loads(order, stream.reader.lanes, 0))
            windows = {(part.lane, part.window) for part in loads}  # of its lanes, and tails that fill them up
            assert read == Counter(block for window in windows for block in orders[0].window_blocks(*window).tolist())


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_that_read_tails_for_each_other_read_every_block_once(world_size: int, datasets: list[Dataset]) -> None:
    dataset, moved = datasets[2], 0
    for seed in range(5):
        mixing, total = Mixing(16 + 3 * seed, 8, 4, seed), Counter[int]()
        begun = {fold: 3 * fold for fold in range(FOLDS)} if seed else dict.fromkeys(range(FOLDS), 0)
        of_ranks = []
        for rank in range(world_size):
            stream, read = counting_stream(dataset, mixing, rank, world_size)
            taken = [
                (group, *((rows.x.clone(), rows.y.clone()) for rows in both))
                for group, *both in stream.read(1, begun, for_others=True)
            ]
            of_ranks.append(taken)
            total += read
        assert sorted(total) == list(range(dataset.layout.blocks))
        assert set(total.values()) == {1}
        got: dict[int, list[list[Rows]]] = {fold: [[] for _ in range(world_size)] for fold in begun}
        for of_all in zip(*of_ranks, strict=True):
            group = of_all[0][0]
            parts, tails = ([one[rows] for one in of_all] for rows in (1, 2))
            fill_up(parts, tails, group)
            moved += sum(len(x) for x, _ in tails)
            for rank, part in enumerate(parts):
                got[group.model][rank].append(part)
        for fold, rank in product(begun, range(world_size)):
            own = TrainStream(dataset, fold_filters(dataset)[fold], mixing, Rank(rank, world_size, threads=2))
            batches = own_batches(own, 1, begun[fold])
            for column in range(2):
                joined = torch.cat([part[column] for part in got[fold][rank]])
                assert torch.equal(joined, torch.cat([batch[column] for batch in batches]))
    assert (moved > 0) == (world_size > 1)


def test_tails_of_features_of_16_bits_reach_their_places(tmp_path: Path) -> None:
    lines = [f"{300 * row},{-row}" for row in range(200)]
    (tmp_path / "deep.csv").write_text("x,label\n" + "\n".join(lines) + "\n")
    dataset = convert_file(tmp_path / "deep.csv", tmp_path / "deep.zarr", label="label")
    assert dataset.schema.x_dtype == "uint16"
    read, moved = list[float](), 0
    streams = [FusedStream(dataset, fold_filters(dataset), Mixing(20, 8, 4), Rank(rank, 2)) for rank in range(2)]
    of_ranks = [stream.read(0, {1: 0}, for_others=True) for stream in streams]
    for of_all in zip(*of_ranks, strict=True):
        parts, tails = ([(one[at].x, one[at].y) for one in of_all] for at in (1, 2))
        fill_up(parts, tails, of_all[0][0])
        moved += sum(len(x) for x, _ in tails)
        for x, y in parts:
            assert torch.equal(x[:, 0].double(), -300 * y)
            read += y.tolist()
    assert moved
    assert len({*read}) == len(read) == int(fold_filters(dataset)[1].kept().sum())


def counting_stream(dataset: Dataset, mixing: Mixing, rank: int, world_size: int) -> tuple[FusedStream, Counter[int]]:
    """A stream without a block to spare in memory, and how often it has read each block."""
    needed = FusedStream(dataset, fold_filters(dataset), mixing, Rank(rank, world_size, threads=2)).memory_needed
    stream = FusedStream(dataset, fold_filters(dataset), mixing, Rank(rank, world_size, needed, 2))
    assert stream.blocks.kept == 0
    read: Counter[int] = Counter()
    plain = stream.blocks.read_into

    def counting(block: int, out: Mapping[str, np.ndarray]) -> None:
        read[block] += 1
        plain(block, out)

    stream.blocks.read_into = counting  # type: ignore[method-assign]
    return stream, read


def test_rows_hold_while_the_next_ones_are_taken(datasets: list[Dataset]) -> None:
    dataset = datasets[1]
    stream = FusedStream(dataset, fold_filters(dataset), Mixing(16, 8, 2))
    held: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _, rows, _ in stream.read(0, {0: 0, 1: 0}):
        assert all(torch.equal(x, copy) for x, copy in held)
        held = [*held[-3:], (rows.x, rows.x.clone())]


def test_too_little_memory_is_refused(datasets: list[Dataset]) -> None:
    with pytest.raises(UsageError, match="--fold-mode runs"):
        FusedStream(datasets[1], fold_filters(datasets[1]), Mixing(16), Rank(memory=1000))
