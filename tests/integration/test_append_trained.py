"""Training on a dataset that has grown: earlier runs stay valid, and new ones train on with all rows."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.append import append_request, append_rows
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import open_dataset
from foldstream.storage.errors import ConflictError
from foldstream.storage.fold_plan import among, open_plan
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import silent
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.fitted.statistics import fitted_statistics
from foldstream.training.run import RunFolder, folds_of, read_result

from ..conftest import append_files, convert_file, silently, table
from ..unit.test_mid_epoch import Cut, cut_after
from ..unit.test_resumed import Interrupting, InterruptionError
from ..unit.test_training import fold_bytes, make_job
from ..unit.test_versions import rows_of

OPTIONS: dict[str, Any] = {"folds": 3, "epochs": 2, "batch_size": 32, "model": "mlp"}


def weights(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.glob("folds/*/model.safetensors"))]


def folds(run: Path) -> np.ndarray:
    plan = open_plan(run / "folds.zarr")
    return BlockReader(plan, ("fold",)).read(range(plan.layout.blocks))["fold"]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of two versions, a run of the first, and its out-of-fold predictions from before the
    second."""
    folder = tmp_path_factory.mktemp("grown")
    for name, rows, seed in (("first", 300, 0), ("second", 60, 1), ("new", 40, 2)):
        (folder / f"{name}.csv").write_text(table(rows, seed))
    convert_file(folder / "first.csv", folder / "d.zarr", label="label")
    fs.train(folder / "d.zarr", folder / "old", refit=True, **OPTIONS).oof().to_csv(folder / "before.csv")
    append_files(folder / "d.zarr", folder / "second.csv")
    return folder


def test_a_run_goes_on_with_its_version(grown: Path, tmp_path: Path) -> None:
    run = fs.Run(grown / "old")
    run.oof().to_csv(tmp_path / "after.csv")
    assert (tmp_path / "after.csv").read_bytes() == (grown / "before.csv").read_bytes()
    assert fs.train(f"{grown}/d.zarr@1", grown / "old", refit=True, **OPTIONS).metrics == run.metrics
    with pytest.raises(ConflictError, match=r"trained on version 1 of .*; give .*@1 to go on .* with init=.*old"):
        fs.train(grown / "d.zarr", grown / "old", refit=True, **OPTIONS)


def test_an_earlier_version_trains_as_before(grown: Path, tmp_path: Path) -> None:
    fs.train(f"{grown}/d.zarr@1", tmp_path / "again", refit=True, **OPTIONS)
    assert weights(tmp_path / "again") == weights(grown / "old")
    assert len(weights(grown / "old")) == 4


def test_a_run_trains_on_with_the_new_rows(grown: Path, tmp_path: Path) -> None:
    told: list[str] = []
    listener = fs.Listener(announce=lambda name, what: told.append(f"{name}: {what}"))
    new = tmp_path / "new"
    run = fs.train(grown / "d.zarr", new, refit=True, init=grown / "old", listener=listener, **OPTIONS)
    assert len(run.oof()) == 360
    np.testing.assert_array_equal(folds(new)[:300], folds(grown / "old"))
    initial, old = read_json(new / "run.json")["initial"], RunFolder(locate(grown / "old"))
    assert initial == {str(fold): read_result(old.fold(fold))["weights"] for fold in range(4)}
    assert any("each fold from its own" in one for one in told)
    assert not any("too optimistic" in one for one in told)


def test_the_models_of_a_run_score_new_rows_first(grown: Path, tmp_path: Path) -> None:
    scored = fs.predict(grown / "old", grown / "new.csv", tmp_path / "new.csv").scored
    part = fs.predict(grown / "old", grown / "d.zarr" / "parts" / "2", tmp_path / "part.csv").scored
    second = fs.predict(grown / "old", grown / "second.csv", tmp_path / "second.csv").scored
    assert (scored["rows"], part["rows"]) == (40, 60)
    assert part["scores"] == pytest.approx(second["scores"])
    for number, place in enumerate((f"{grown}/d.zarr", f"{grown}/d.zarr@1")):  # on which it was trained
        assert not fs.predict(grown / "old", place, tmp_path / f"{number}.csv").scored


def test_what_is_fitted_is_fitted_on_the_training_rows_of_all_versions(grown: Path, tmp_path: Path) -> None:
    dataset = open_dataset(grown / "d.zarr")
    _, run = make_job(dataset, tmp_path / "run", model="mlp")
    plan, x = open_plan(run.folds), rows_of(dataset)["x"].astype(np.float64)
    codes = folds(Path(str(run.root)))
    for fold in range(3):
        found, kept = fitted_statistics(plan, fold), x[among(codes, plan.model(fold).train)]
        np.testing.assert_allclose(found.mean, kept.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.std, kept.std(axis=0), rtol=1e-12)


def test_a_training_that_is_cut_off_on_a_grown_dataset_goes_on_to_the_same_bytes(grown: Path, tmp_path: Path) -> None:
    dataset = open_dataset(grown / "d.zarr")
    job, quiet = make_job(dataset, tmp_path / "quiet", model="mlp", batch_size=32)
    FoldTrainer(folds_of(job, quiet, range(3)), Process()).train()
    job, cut = make_job(dataset, tmp_path / "cut", model="mlp", batch_size=32)
    with pytest.raises(Cut):
        FoldTrainer(folds_of(job, cut, range(3)), Process(), Execution(checkpoint_every="1 step"), cut_after(9)).train()
    FoldTrainer(folds_of(job, cut, range(3)), Process()).train()
    assert fold_bytes(cut) == fold_bytes(quiet)


def test_an_append_that_was_interrupted_leads_to_the_same_training(grown: Path, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    dataset = convert_file(grown / "first.csv", root, label="label")
    request = append_request(dataset, [str(grown / "second.csv")])
    with pytest.raises(InterruptionError):
        append_rows(dataset, request, Interrupting(1), silent, silently)
    append_files(root, grown / "second.csv")
    assert open_dataset(root).identity == open_dataset(grown / "d.zarr").identity
    for name, place in (("one", root), ("other", grown / "d.zarr")):
        fs.train(place, tmp_path / name, **OPTIONS)
    assert weights(tmp_path / "one") == weights(tmp_path / "other")


def test_tasks_in_other_processes_read_the_same_version(grown: Path, tmp_path: Path) -> None:
    first = open_dataset(f"{grown}/d.zarr@1")
    assert len(open_dataset(first.reference)) == 300
    assert [len(fs.stream(fs.open(f"{grown}/d.zarr@{version}"), batch_size=10)) for version in (1, 2)] == [30, 36]


def test_serial_and_dask_appends_are_the_same(grown: Path, tmp_path: Path, dask_client: Any) -> None:
    root = tmp_path / "d.zarr"
    convert_file(grown / "first.csv", root, label="label")
    assert fs.append(root, grown / "second.csv", client=dask_client).identity == open_dataset(grown / "d.zarr").identity
