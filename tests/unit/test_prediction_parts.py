"""Predictions in parts: the same file as in one piece, folders and arrays, and what an interruption leaves."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import zarr
from foldstream.cluster.api import predict as predicting
from foldstream.cluster.api.job_file import load_job_file
from foldstream.pipeline.predictions import files
from foldstream.storage.dataset import Dataset, open_arrays
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.format.manifest import WORK
from foldstream.storage.tasks import Result, SerialExecutor, Task
from pyarrow import parquet

from ..chaos.disk import read_tree
from ..executors import LastFirst

ROWS = 400


class Stopping(SerialExecutor):
    """Runs some tasks, and stops as Ctrl-C does."""

    def __init__(self, most: int) -> None:
        self.most, self.ran = most, list[int]()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in enumerate(tasks):
            if len(self.ran) == self.most:
                raise KeyboardInterrupt
            self.ran.append(task.shard)  # type: ignore[attr-defined]
            yield position, function(task)


class InParts:
    """Predicts in parts, in this process: with `most`, only so many. Returns the shards."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.scored: dict[str, Any] = {}
        """The scores of the last prediction."""

    def use(self, executor: SerialExecutor) -> None:
        """Let an executor run the tasks."""
        self.patch.setattr(predicting, "prediction_executor", lambda workers, session: nullcontext(executor))

    def __call__(self, *places: object, most: int = 1_000, **options: Any) -> list[int]:
        executor = Stopping(most)
        self.use(executor)
        self.scored = fs.predict(*map(str, places), workers=2, **options).scored
        return executor.ran


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> InParts:
    return InParts(monkeypatch)


def flowers(rows: int, seed: int) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    kind = draws.integers(3, size=rows)
    sizes = {
        "size": kind + draws.normal(0, 0.7, rows),
        "color": np.array(["red", "blue"])[draws.integers(2, size=rows)],
    }
    return pd.DataFrame({"name": [f"n{i}" for i in range(rows)], **sizes, "kind": np.array(list("abc"))[kind]})


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a table of new rows with labels, and the same as a dataset."""
    folder = tmp_path_factory.mktemp("garden")
    flowers(240, 0).to_csv(folder / "old.csv", index=False)
    old = fs.convert_csv(folder / "old.csv", folder / "old.zarr", label="kind", id="name")
    fs.train(old, folder / "run", model="mlp", folds=2, epochs=2, batch_size=32)
    flowers(ROWS, 1).to_csv(folder / "new.csv", index=False)
    fs.convert_csv(folder / "new.csv", folder / "new.zarr", like=folder / "old.zarr")
    return folder


def stored(root: Path, name: str) -> np.ndarray:
    """An array as zarr reads it."""
    return np.asarray(zarr.open_array(root / name, mode="r")[...])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("source", ["new.csv", "new.zarr"])
@pytest.mark.parametrize("ending", files.WRITERS)
def test_parts_become_the_file_that_one_process_writes(
    ending: str, source: str, garden: Path, in_parts: InParts, tmp_path: Path
) -> None:
    run, new, whole, parts = garden / "run", garden / source, tmp_path / f"whole{ending}", tmp_path / f"parts{ending}"
    fs.predict(run, new, whole, proba=True, workers=0)
    assert in_parts(run, new, parts, proba=True) == [*range(fs.open(garden / "new.zarr").layout.shards)]
    assert parts.read_bytes() == whole.read_bytes()
    assert left_in(tmp_path) == [parts.name, whole.name]


def test_the_scores_of_parts_are_those_of_all_rows(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    found = fs.predict(garden / "run", garden / "new.csv", tmp_path / "whole.csv").scored
    assert found["rows"] == ROWS
    with pytest.raises(KeyboardInterrupt):
        in_parts(garden / "run", garden / "new.csv", tmp_path / "parts.csv", most=3)
    assert in_parts(garden / "run", garden / "new.csv", tmp_path / "parts.csv")[0] == 3
    assert in_parts.scored == found


def test_an_interrupted_prediction_resumes_with_what_is_left(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    run, new, out = garden / "run", garden / "new.csv", tmp_path / "out.csv"
    fs.predict(run, new, tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        in_parts(run, new, out, most=5)
    work = tmp_path / f".out.csv{WORK}"
    converted = (work / "source.zarr" / "manifest.json").stat().st_mtime_ns
    assert sorted(path.name for path in (work / "parts").iterdir()) == [f"{shard:08d}" for shard in range(5)]
    (work / "parts" / "00000001").write_bytes(b"other bytes")
    (work / "receipts" / "00000003.npz").write_bytes(b"half a receipt")
    with pytest.raises(KeyboardInterrupt):
        in_parts(run, new, out, most=2)
    assert (work / "source.zarr" / "manifest.json").stat().st_mtime_ns == converted
    shards = fs.open(garden / "new.zarr").layout.shards
    assert in_parts(run, new, out) == [*range(5, shards)]
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert left_in(tmp_path) == ["out.csv", "whole.csv"]


def test_another_request_starts_over(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    run, new, out = garden / "run", tmp_path / "new.csv", tmp_path / "out.csv"
    shutil.copy(garden / "new.csv", new)
    for options in ({}, {"proba": True}, {"ensemble": "vote"}):
        with pytest.raises(KeyboardInterrupt):
            in_parts(run, new, out, most=2, **options)
    flowers(ROWS, 2).to_csv(new, index=False)
    assert in_parts(run, new, out, ensemble="vote")[:2] == [0, 1]
    fs.predict(run, new, tmp_path / "whole.csv", ensemble="vote")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_folder_has_a_file_for_each_shard(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    run, new, out = garden / "run", garden / "new.csv", tmp_path / "out"
    fs.predict(run, new, tmp_path / "whole.parquet", proba=True)
    with pytest.raises(KeyboardInterrupt):
        in_parts(run, new, f"{out}/", most=3, proba=True)
    assert not (out / "_SUCCESS").exists()
    assert in_parts(run, new, f"{out}/", proba=True)[0] == 3
    shards = fs.open(garden / "new.zarr").layout.shards
    assert left_in(out) == ["_SUCCESS", *(f"part-{shard:05d}.parquet" for shard in range(shards))]
    assert parquet.read_table(out).equals(parquet.read_table(tmp_path / "whole.parquet"))
    first = fs.predict(run, new, f"{tmp_path}/here/", proba=True)
    assert all((tmp_path / "here" / name).read_bytes() == (out / name).read_bytes() for name in left_in(out))
    # The same call finds that nothing is left to do, and another one does not replace it.
    assert fs.predict(run, new, f"{out}/", proba=True) == first
    with pytest.raises(ConflictError, match=r"out already contains other predictions; choose another name"):
        fs.predict(run, new, f"{out}/")
    assert left_in(tmp_path) == ["here", "out", "whole.parquet"]


def test_arrays_have_the_predictions_of_all_outputs(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    run, out = garden / "run", tmp_path / "out.zarr"
    fs.predict(run, garden / "new.csv", tmp_path / "whole.parquet", proba=True)
    table = pd.read_parquet(tmp_path / "whole.parquet")
    with pytest.raises(KeyboardInterrupt):
        in_parts(run, garden / "new.zarr", out, most=3)
    next((out / "prediction" / "c" / "1").iterdir()).write_bytes(b"other bytes")
    assert in_parts(run, garden / "new.zarr", out)[:2] == [1, 3]
    np.testing.assert_array_equal(stored(out, "prediction"), table[[f"probability_{one}" for one in "abc"]].to_numpy())
    assert '"classes":["a","b","c"]' in json.dumps(dict(zarr.open_group(out, mode="r").attrs), separators=(",", ":"))
    keys = [bytes(key).rstrip(b"\0").decode() for key in stored(out, "key")]
    assert keys == table["name"].tolist()
    assert fs.predict(run, garden / "new.zarr", out).rows == ROWS
    assert open_arrays(out, "predictions").manifest.details["dataset"] == fs.open(garden / "new.zarr").identity
    flowers(ROWS, 1).drop(columns="name").assign(name=range(10, 10 + ROWS)).to_csv(tmp_path / "bare.csv", index=False)
    fs.predict(run, tmp_path / "bare.csv", tmp_path / "bare.zarr")
    assert stored(tmp_path / "bare.zarr", "key")[:3].tolist() == [10, 11, 12]


@pytest.mark.parametrize("ending", [*files.WRITERS, ".zarr"])
def test_parts_may_end_in_any_order(ending: str, garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    whole, parts = (tmp_path / f"{name}{ending}" for name in ("whole", "parts"))
    fs.predict(garden / "run", garden / "new.zarr", whole, workers=0)
    in_parts.use(LastFirst())
    fs.predict(garden / "run", garden / "new.zarr", parts, workers=2)
    if ending == ".zarr":
        assert read_tree(parts) == read_tree(whole)
    else:
        assert parts.read_bytes() == whole.read_bytes()


def test_rows_without_a_key_are_numbered(digits: Dataset, tmp_path: Path) -> None:
    fs.train(digits, tmp_path / "run", model="mlp", folds=2, epochs=1)
    fs.predict(tmp_path / "run", digits, tmp_path / "out.zarr")
    assert stored(tmp_path / "out.zarr", "row").tolist() == [*range(1, 1201)]


def test_images_are_listed_again_before_a_result_is_taken_for_theirs(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(24):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(folder / f"{number}.png")
    fs.convert_images(tmp_path / "photos", tmp_path / "photos.zarr")
    fs.train(tmp_path / "photos.zarr", tmp_path / "run", model="mlp", folds=2, epochs=1, batch_size=8)
    assert fs.predict(tmp_path / "run", tmp_path / "photos", f"{tmp_path}/out/").rows == 24
    assert fs.predict(tmp_path / "run", tmp_path / "photos", f"{tmp_path}/out/").rows == 24
    (tmp_path / "photos" / "a" / "0.png").unlink()
    with pytest.raises(ConflictError, match="already contains other predictions"):
        fs.predict(tmp_path / "run", tmp_path / "photos", f"{tmp_path}/out/")


def test_what_does_not_fit_is_refused_before_anything_is_written(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    for out in (f"{tmp_path}/full/", f"{tmp_path}/full/thesis.txt/"):
        with pytest.raises(ConflictError, match="already contains something else; choose another name, or remove it"):
            fs.predict(garden / "run", garden / "new.csv", out)
    with pytest.raises(UsageError, match=r'format="csv": .*/out/ is a folder of Parquet files; remove the'):
        fs.predict(garden / "run", garden / "new.csv", f"{tmp_path}/out/", format="csv")
    with pytest.raises(UsageError, match=r"proba: .*out\.zarr has arrays with all probabilities, and no columns"):
        fs.predict(garden / "run", garden / "new.csv", tmp_path / "out.zarr", proba=True)
    assert left_in(tmp_path) == ["full"]
    assert left_in(tmp_path / "full") == ["thesis.txt"]


def test_a_job_file_keeps_the_slash_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('[predict]\nrun = "run"\nsource = "new.csv"\nout = "out/"\n')
    assert load_job_file(tmp_path / "job.toml")["predict"]["out"] == f"{tmp_path}/out/"


def test_a_frame_is_the_same_from_parts(garden: Path, in_parts: InParts, tmp_path: Path) -> None:
    run = fs.Run(garden / "run")
    whole = run.predict(garden / "new.csv", out=tmp_path / "whole.csv")
    with pytest.raises(KeyboardInterrupt):
        in_parts(garden / "run", garden / "new.csv", tmp_path / "parts.csv", proba=True, most=2)
    # The parts of a file are not those of a frame.
    in_parts.use(SerialExecutor())
    parts = run.predict(garden / "new.csv", out=tmp_path / "parts.csv", workers=2)
    pd.testing.assert_frame_equal(parts, whole)
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert left_in(tmp_path) == ["parts.csv", "whole.csv"]
