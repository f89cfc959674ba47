"""`fs.stream` and its errors."""

import gc
import shutil
from pathlib import Path

import foldstream as fs
import numpy as np
import psutil
import pytest
import torch
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import UsageError
from foldstream.storage.machine import parse_bytes, this_machine
from foldstream.storage.places.locate import locate
from foldstream.training.stream import group_memory
from foldstream.training.stream.batch import Batch, Rank, with_tensors
from foldstream.training.stream.filters import EveryRow
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.single import TrainStream


def test_folds_and_splits_share_out_the_rows(digits: Dataset) -> None:
    tested: list[int] = []
    for fold in range(3):
        train = [i for batch in fs.stream(digits, batch_size=64, fold=fold, folds=3) for i in batch.id.tolist()]
        test = [i for batch in fs.stream(digits, fold=fold, folds=3, split="test") for i in batch.id.tolist()]
        assert not set(train) & set(test)
        assert len(train) == len(set(train)) == len(digits) - len(test)
        tested += test
    assert sorted(tested) == list(range(len(digits)))


def test_subsets_are_rows_or_booleans(digits: Dataset) -> None:
    rows = np.arange(0, len(digits), 3)
    chosen = np.zeros(len(digits), bool)
    chosen[rows] = True
    by_number, by_mask = (
        [batch.id.tolist() for batch in fs.stream(str(digits.root), batch_size=8, rows=given, seed=3)]
        for given in (rows, chosen)
    )
    assert by_number == by_mask
    assert sorted(i for batch in by_number for i in batch) == rows.tolist()


def test_normalised_rows_are_centred_and_scaled(digits: Dataset) -> None:
    normalize = fs.normalizer(digits)
    rows = torch.cat([normalize(batch.x) for batch in fs.stream(digits, split="test")])
    assert rows.dtype == torch.float32
    assert abs(rows.mean().item()) < 1e-4
    assert abs(rows.std().item() - 1) < 1e-3


def test_the_stream_trains_a_model_in_a_plain_loop(digits: Dataset) -> None:
    torch.manual_seed(0)
    normalize = fs.normalizer(digits)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    stream = fs.stream(digits, batch_size=64, fold=0)
    for _ in range(5):
        for x, y, _ in stream:
            loss = torch.nn.functional.cross_entropy(model(normalize(x)), y.long())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    right = [(model(normalize(x)).argmax(1) == y).float() for x, y, _ in fs.stream(digits, fold=0, split="test")]
    assert torch.cat(right).mean() > 0.8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tst"}, "did you mean 'test'"),
        ({"fold": 5}, "between 0 and 4"),
        ({"fold": 0, "folds": 1}, "between 2 and 100"),
        ({"rank": 2, "world_size": 2}, "between 0 and 1"),
        ({"batch_size": 3, "world_size": 4, "rank": 0}, "use batch_size=4 or more"),
        ({"rows": np.array([1200])}, "from 0 to 1,199"),
        ({"rows": np.ones(7, bool)}, "1,200 rows"),
        ({"memory": "2 wheels"}, "500MB"),
        ({"memory": "1MB"}, "smaller window="),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str, digits: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        fs.stream(digits, **options)  # type: ignore[arg-type]


def test_folds_of_a_run_on_other_data_are_refused(digits: Dataset, tmp_path: Path) -> None:
    from foldstream.training.run import RunFolder
    from foldstream.training.splits.plan import make_plan
    from foldstream.training.splits.split import Split

    from ..conftest import convert_file, table

    other = tmp_path / "other.csv"
    other.write_text(table(100))
    run = RunFolder(locate(tmp_path / "run"))
    make_plan(convert_file(other, tmp_path / "other.zarr", label="label"), Split(kind="kfold", folds=4), run.folds)
    with pytest.raises(UsageError, match="belong to a different dataset"):
        fs.stream(digits, fold=0, folds=run.root)


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("64kb", 64000)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_the_machine_has_something() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert 2**28 < machine.memory < 2**50


def test_files_are_closed_with_the_stream(digits: Dataset, tmp_path: Path) -> None:
    """By reference counts: many streams, one after the other, must not run out of descriptors."""
    own = open_dataset(shutil.copytree(digits.root, tmp_path / "digits.zarr"))
    gc.disable()
    try:
        for split in ("train", "test"):
            stream = fs.stream(own, batch_size=64, fold=0, split=split)
            batches = iter(stream)
            assert len(next(batches).id)
            assert open_files(own)
            del stream, batches
            assert not open_files(own)
    finally:
        gc.enable()


def open_files(dataset: Dataset) -> list[str]:
    """Those of a dataset that this process has open; a file of another that is closed meanwhile counts for nothing."""
    paths = [file.path for file in psutil.Process().open_files()]
    return [path for path in paths if path.startswith(str(dataset.place))]


def test_an_epoch_reads_each_block_once_though_long_lanes_fill_up_others(digits: Dataset) -> None:
    needed = TrainStream(digits, EveryRow(digits.layout), Mixing(48)).memory_needed
    stream = TrainStream(digits, EveryRow(digits.layout), Mixing(48), Rank(memory=needed))
    assert any(len(course) > 1 for course in stream.order.segments), "no lane is filled up"
    assert sum(len(batch.id) for batch in stream) == len(digits)
    stored = sum(int(digits.index.tables[name][:, 0].sum()) for name in ("x", "y", "id"))
    assert stream.blocks.bytes_read == stored


def test_a_stream_opened_for_each_epoch_reuses_memory_but_never_that_of_a_batch(digits: Dataset) -> None:
    memories, held = [], []
    for epoch in range(3):
        for number, batch in enumerate(fs.stream(digits, batch_size=64, epoch=epoch)):
            if number in (3, 9):
                held.append((batch.x, batch.x.clone()))
        memories.append(group_memory.kept[-1])
    assert memories[0] is memories[1] is memories[2]
    assert all(torch.equal(rows, copy) for rows, copy in held)


def test_what_goes_to_a_device_keeps_its_form() -> None:
    batch, group = Batch(torch.ones(2), torch.zeros(2), torch.arange(2)), object()
    moved = with_tensors((group, [batch, (torch.ones(1),)]), lambda tensor: tensor + 1)
    assert moved[0] is group
    assert isinstance(moved[1][0], Batch)
    assert moved[1][0].id.tolist() == [1, 2]
    assert moved[1][1][0].tolist() == [2.0]
