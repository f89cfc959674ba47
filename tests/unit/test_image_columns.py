"""Columns beside images: what is stored of them, and that models get them, standardized by the fold's training rows."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import SourceError, UsageError
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.config import Execution
from foldstream.training.fitted.inputs import describe_inputs, plan_inputs
from PIL import Image

from .test_inputs import SCHEMA, STATISTICS
from .test_mid_epoch import exit_codes, train_alone, two_ranks
from .test_training import fold_bytes, make_job

LINES = [
    "name,sick,age,site,seen,code",
    "0.png,no,31,north,2024-05-01,7",
    "1.png,yes,,south,2024-05-02,8",
    "2.png,no,44.5,,,7",
    "3.png,yes,50,north,2024-05-04,9",
]
NAN = float("nan")


def write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((8, 8), number % 7, np.uint8)).save(folder / f"{number}.png")


def convert(folder: Path, lines: list[str], **options: Any) -> Dataset:
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    usual = {"labels": folder / "labels.csv", "shuffle": None, "size": 8, "color": "gray"}
    return fs.convert_images(folder / "photos", folder / "data.zarr", **{**usual, **options})


def test_columns_are_stored_as_numbers_dates_and_codes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature=["age", "site", "seen"], category="code", group="site")
    table = dataset.schema.table
    assert table
    assert table.features == ("age", "site", "seen", "code")
    assert table.categories == {"site": ("", "north", "south"), "code": ("7", "8", "9")}
    assert table.dates == {"seen": "days"}
    x, _, _ = fs.open(tmp_path / "data.zarr")[:]
    assert x["image"].shape == (4, 1, 8, 8)
    expected = [[31, 1, 19844, 0], [NAN, 2, 19845, 1], [44.5, 0, NAN, 0], [50, 1, 19847, 2]]
    np.testing.assert_array_equal(x["table"], expected)
    statistics = dataset.statistics.table
    assert statistics
    assert statistics.missing == (1, 1, 1, 0)
    facts = {column.name: column for column in dataset.columns()}
    assert (facts["site"].role, facts["site"].kind, facts["site"].distinct) == ("feature, group", "category", 3)
    assert facts["age"].maximum == 50
    rows = fs.open(tmp_path / "data.zarr").rows()
    assert rows["site"].fillna("").tolist() == ["north", "south", "", "north"]
    assert convert(tmp_path, LINES, feature=["age", "site", "seen"], category="code", group="site") == dataset


def test_a_damaged_shard_of_columns_is_repaired(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature="age")
    file = next(path for path in (tmp_path / "data.zarr/table/c").rglob("*") if path.is_file())
    file.write_bytes(b"")
    damages = find_damage(dataset, SerialExecutor())
    assert [damage.array for damage in damages] == ["table"]
    repair_shards(dataset, damages, SerialExecutor())
    assert not find_damage(dataset, SerialExecutor())


def test_a_later_dataset_has_the_same_columns_and_codes(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    dataset = convert(tmp_path, LINES, feature=["age", "site"])
    options = {"like": tmp_path / "data.zarr", "out": tmp_path / "later.zarr", "size": None, "labels": None}

    def later(lines: list[str], **more: Any) -> Dataset:
        (tmp_path / "later.csv").write_text("\n".join([LINES[0], *lines]) + "\n")
        given = {**options, "labels": tmp_path / "later.csv", **more}
        return fs.convert_images(tmp_path / "photos", given.pop("out"), **given)

    same = later(["3.png,no,1,south,,", "0.png,no,,north,,", "1.png,no,2,south,,", "2.png,no,3,south,,"])
    assert same.schema.table == dataset.schema.table
    wrong = ["0.png,no,1,south,,", "1.png,no,old,north,,", "2.png,no,inf,north,,", "3.png,no,2,west,,"]
    other: dict[str, Any] = {"out": tmp_path / "other.zarr"}
    with pytest.raises(SourceError, match=r"1\.png: its 'age', 'old', is not a number \(and 2 more\)"):
        later(wrong, **other)
    skipped = later(wrong, **other, on_error="skip")
    assert len(skipped) == 1
    assert (
        "its 'site', 'west', does not occur in the training data" in (tmp_path / "other.zarr/left_out.csv").read_text()
    )
    with pytest.raises(UsageError, match=r"like= already selects the columns beside the images \(age, site\)"):
        later(wrong, out=tmp_path / "third.zarr", feature="seen")
    with pytest.raises(UsageError, match="name the CSV file that has those of these images with labels="):
        fs.convert_images(tmp_path / "photos", tmp_path / "third.zarr", like=tmp_path / "data.zarr")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature": "agee"}, "feature: .* has no column 'agee'.*age"),
        ({"feature": "age", "label": "age"}, "'age' of .* already has another role"),
        ({"feature": "age", "labels": None}, "feature= selects columns of the CSV file given with labels="),
    ],
)
def test_columns_that_do_not_exist_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 4)
    with pytest.raises(UsageError, match=message):
        convert(tmp_path, LINES, **options)


ROWS = 200
MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, sample_shape, outputs):
        super().__init__()
        assert sample_shape["image"] == (1, 8, 8)
        self.pixels = nn.Linear(64, 4)
        self.last = nn.Linear(4 + sum(size for size, in list(sample_shape.values())[1:]), outputs)

    def forward(self, x):
        image, *tables = x.values()
        return self.last(torch.cat([self.pixels(image.flatten(1)), *tables], dim=1))

class Coded(nn.Module):
    def __init__(self, schema, outputs):
        super().__init__()
        assert [column.name for column in schema.columns] == ["age", "site", "age"]
        assert schema.inputs["image"] == () and schema.inputs["codes"][0].name == "site"
        self.site = nn.Embedding(schema.inputs["codes"][0].values, 3)
        self.last = nn.Linear(3 + len(schema.inputs["numbers"]), outputs)

    def forward(self, x):
        return self.last(torch.cat([self.site(x["codes"][:, 0]), x["numbers"]], dim=1))

def pixels(sample_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
"""
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "workers": 0, "settings": {"lr": 0.05}}


def patients(seed: int) -> list[str]:
    """Rows whose label follows from the columns alone: sick above an age that depends on the site."""
    draws = np.random.default_rng(seed)
    lines = ["name,sick,age,site,fold"]
    for number in range(ROWS):
        age, site = draws.uniform(20, 80), draws.choice(["north", "south"])
        known = "" if number % 50 == 0 else f"{age:.2f}"
        lines.append(f"{number}.png,{int(age > (35 if site == 'north' else 65))},{known},{site},{number % 4}")
    return lines


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos", ROWS)
    (tmp_path / "own.py").write_text(MODELS)
    convert(tmp_path, patients(0), feature=["age", "site"], fold="fold")
    return tmp_path


def train(folder: Path, run: str, model: str, **options: Any) -> dict[str, Any]:
    usual = {"split": "column", **OPTIONS}
    return fs.train(
        folder / "data.zarr", folder / run, model=f"{folder}/own.py:{model}", **{**usual, **options}
    ).summary


def weights(folder: Path, run: str) -> list[bytes]:
    return [(folder / run / f"folds/{fold}/model.safetensors").read_bytes() for fold in range(4)]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("model", "options"), [("Net", {}), ("Coded", {"input": ["codes=site", "numbers=*"]})], ids=["one", "several"]
)
def test_columns_beside_images_reach_the_model(model: str, options: dict[str, Any], clinic: Path) -> None:
    fused = train(clinic, "fused", model, fold_mode="fused", **options)
    assert fused["out_of_fold"]["accuracy"] > 0.9
    dataset = fs.open(clinic / "data.zarr")
    notes = describe_inputs(dataset.schema, dataset.statistics, "mean", False, options.get("input", ()))
    assert notes["inputs"] == ("image; codes: site; numbers: age" if options else "image; table: age, site")
    assert notes["missing values"].startswith("4 in age: filled with the mean")
    runs = train(clinic, "runs", model, fold_mode="runs", **options)
    assert runs["out_of_fold"] == fused["out_of_fold"]
    assert weights(clinic, "runs") == weights(clinic, "fused")
    batch, *others = fs.stream(clinic / "data.zarr", split="test")
    assert batch.x["image"].shape == (len(batch.id), 1, 8, 8)
    assert batch.x["table"].dtype == torch.float64
    models = fs.load_models(clinic / "fused")
    with torch.inference_mode():
        codes = [sum(one(own.x).softmax(dim=1) for one in models).argmax(dim=1) for own in (batch, *others)]
    assert fs.predict(clinic / "fused", clinic / "data.zarr", clinic / "known.csv").rows == ROWS
    table = pd.read_csv(clinic / "labels.csv").drop(columns="sick")
    table.to_csv(clinic / "new.csv", index=False)
    fs.predict(clinic / "fused", clinic / "photos", clinic / "out.csv", table=clinic / "new.csv")
    known, out = (pd.read_csv(clinic / name, index_col="path") for name in ("known.csv", "out.csv"))
    pd.testing.assert_frame_equal(out.loc[known.index], known)
    assert known.iloc[:, 0].tolist() == torch.cat(codes).tolist()
    fs.export(clinic / "fused", clinic / "exported")
    exported = torch.jit.load(clinic / "exported/fold-0.pt")  # type: ignore[no-untyped-call]
    torch.testing.assert_close(exported(batch.x), models[0](batch.x))
    fs.export(clinic / "fused", clinic / "onnx", format="onnx")
    session = onnxruntime.InferenceSession(clinic / "onnx/fold-0.onnx")
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.x.items()})
    torch.testing.assert_close(torch.from_numpy(found), models[0](batch.x))


def test_a_model_may_get_the_images_alone(clinic: Path) -> None:
    alone = train(clinic, "alone", "pixels", input="image", fold_mode="fused")
    assert alone["out_of_fold"]["accuracy"] < 0.7
    assert fs.predict(clinic / "alone", clinic / "photos", clinic / "out.csv").rows == ROWS
    assert fs.predict(clinic / "alone", clinic / "data.zarr", clinic / "again.csv").rows == ROWS
    (clinic / "photos" / "damaged.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"damaged\.png: .*on_error=\"skip\""):
        fs.predict(clinic / "alone", clinic / "photos", clinic / "out.csv")
    assert fs.predict(clinic / "alone", clinic / "photos", clinic / "out.csv", on_error="skip").rows == ROWS
    pd.testing.assert_frame_equal(pd.read_csv(clinic / "out.csv"), pd.read_csv(clinic / "again.csv"))
    assert "photos/damaged.png,,," in (clinic / "out.left_out.csv").read_text()
    with pytest.raises(UsageError, match=r"model=\"mlp\" takes no columns beside images; .* input=\"image\""):
        fs.train(clinic / "data.zarr", clinic / "no", model="mlp")


def test_images_are_scored_by_a_table_that_has_their_labels(clinic: Path) -> None:
    train(clinic, "alone", "pixels", input="image", fold_mode="fused")
    table = pd.read_csv(clinic / "labels.csv")
    table.drop(index=3).to_csv(clinic / "labels.csv", index=False)
    out = clinic / "out.csv"
    found = fs.predict(clinic / "alone", clinic / "photos", out, table=clinic / "labels.csv")
    assert (found.rows, found.scored["rows"]) == (ROWS, ROWS - 1)
    predicted = pd.read_csv(out).merge(table.drop(index=3), left_on="path", right_on="name")
    assert found.scored["scores"]["accuracy"] == pytest.approx((predicted["sick_x"] == predicted["sick_y"]).mean())
    table.drop(columns="sick").to_csv(clinic / "bare.csv", index=False)
    with pytest.raises(UsageError, match="take no columns beside images, and it has no column 'sick' to score by"):
        fs.predict(clinic / "alone", clinic / "photos", clinic / "no.csv", table=clinic / "bare.csv")


@pytest.mark.parametrize("missing", ["auto", "median"])
def test_columns_are_standardized_by_the_training_rows_of_each_fold(missing: str, clinic: Path) -> None:
    train(clinic, "before", "Net", missing=missing, epochs=1)
    lines = [line.split(",") for line in patients(0)]
    ages = np.array([float(fields[2] or "nan") for fields in lines[1:]])
    for fold in range(4):
        statistics = read_json(locate(clinic / f"before/folds/{fold}/done.json"))["statistics"]["table"]
        trained = ages[np.arange(ROWS) % 4 != fold]
        assert statistics["mean"][0] == pytest.approx(np.nanmean(trained), rel=1e-12)
        assert statistics["std"][0] == pytest.approx(np.nanstd(trained), rel=1e-12)
        assert statistics["missing"][0] == np.isnan(trained).sum()
        if missing == "median":
            assert statistics["median"][0] == np.nanmedian(trained)
    lines[1 + 2][2] = "1e6"  # of fold 2
    convert(clinic, [",".join(fields) for fields in lines], feature=["age", "site"], fold="fold", overwrite=True)
    train(clinic, "after", "Net", missing=missing, epochs=1)
    same = [one == other for one, other in zip(weights(clinic, "before"), weights(clinic, "after"), strict=True)]
    assert same == [False, False, True, False]


def test_what_does_not_fit_columns_beside_images_is_refused(clinic: Path) -> None:
    with pytest.raises(UsageError, match='input="image=…": this is the name of the image itself'):
        train(clinic, "no", "Net", input="image=*")
    with pytest.raises(UsageError, match='augment="mixup=1" mixes rows, but the images have columns beside them'):
        train(clinic, "no", "Net", augment="mixup=1")
    with pytest.raises(UsageError, match="has no feature 'agee'; did you mean 'age'"):
        train(clinic, "no", "Net", normalize="agee=minmax")
    with pytest.raises(UsageError, match="--input image: the samples are no images"):
        plan_inputs(SCHEMA, STATISTICS, inputs=["image"])
    train(clinic, "run", "Net", epochs=1, augment="horizontal-flip", normalize=["age=minmax", "none"])
    with pytest.raises(UsageError, match=r"the run's models take columns beside the images \(age, site\)"):
        fs.predict(clinic / "run", clinic / "photos", clinic / "no.csv")


def test_a_normalizer_takes_images_with_columns(clinic: Path) -> None:
    normalize = fs.normalizer(clinic / "data.zarr")
    (batch,) = fs.stream(clinic / "data.zarr", batch_size=ROWS)
    found = normalize(batch.x)
    assert found["image"].shape == (ROWS, 1, 8, 8)
    assert found["table"][:, 0].mean() == pytest.approx(0, abs=1e-6)
    assert set(found["table"][:, 1].tolist()) == {0, 1}


@pytest.mark.parametrize("mode", ["fused", "runs"])
def test_two_processes_that_were_killed_get_the_weights_of_one(mode: str, clinic: Path) -> None:
    dataset = fs.open(clinic / "data.zarr")
    options: dict[str, Any] = {"epochs": 3, "shares": 2, "batch_size": 16, "model": f"{clinic}/own.py:Net"}
    job, quiet = make_job(dataset, clinic / "quiet", **options)
    train_alone(job, quiet, Execution(), mode, [])
    _, cut = make_job(dataset, clinic / "cut", **options)
    two_ranks(cut, mode, "3 steps", clinic / "meet", (8, 12))
    assert exit_codes(cut, mode, "3 steps", clinic / "again") == [0, 0]
    assert fold_bytes(cut) == fold_bytes(quiet)


def test_columns_reach_models_that_are_trained_as_one(clinic: Path) -> None:
    stacked = train(clinic, "stacked", "Net", settings={"lr": 0.05, "stack": True})
    assert stacked["out_of_fold"]["accuracy"] > 0.9


def test_the_model_in_the_guide_takes_images_with_columns(clinic: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/model.md").read_text()
    code = guide.partition('```python title="net.py"\n')[2].partition("```")[0]
    (clinic / "guide.py").write_text(code)
    summary = fs.train(
        clinic / "data.zarr", clinic / "run", model=f"{clinic}/guide.py:Net", **{**OPTIONS, "epochs": 3}
    ).summary
    assert summary["out_of_fold"]["accuracy"] > 0.7
