"""What a training uses where its options leave it open: a model that fits the data, batches and epochs that fit the
rows, and what a run records of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cluster.api.training_request import check_request, check_settings
from foldstream.cluster.requests import TrainRequest
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.schema import Schema
from foldstream.training.config import TrainConfig
from foldstream.training.fitted.inputs import InputColumn, InputSchema
from foldstream.training.zoo.auto import Length, choose_model, usual_length
from foldstream.training.zoo.networks import ResNet, WideDeep
from PIL import Image

TABLE = Schema(("a", "b"), (2,), "float32")
CATEGORY = InputSchema((InputColumn("a", "number"), InputColumn("city", "category", 4)), None, (), ())


def images(*size: int) -> Schema:
    return Schema((), (3, *size), "uint8", image=ImageForm((size[0], size[1])))


@pytest.mark.parametrize(
    ("schema", "inputs", "model"),
    [
        (TABLE, (), "wide-deep"),
        (images(28, 28), (), "digits-cnn"),
        (images(16, 48), (), "digits-cnn"),
        (images(15, 28), (), "resnet"),
        (images(64, 64), (), "resnet"),
        (replace(images(28, 28), table=TABLE), (), "resnet"),
        (replace(images(28, 28), table=TABLE), ("image",), "digits-cnn"),
        (Schema(("a", "b"), (1, 2), "float32"), (), "mlp"),
    ],
)
def test_the_model_fits_the_schema(schema: Schema, inputs: tuple[str, ...], model: str) -> None:
    assert choose_model(schema, inputs) == model


def test_the_length_fits_the_rows() -> None:
    tables = {rows: usual_length("wide-deep", rows) for rows in (1, 178, 2_207, 60_000, 3_000_000)}
    assert [*tables.values()] == [Length(16, 20), Length(16, 20), Length(128, 20), Length(1024, 18), Length(1024, 2)]
    assert usual_length("digits-cnn", 60_000) == usual_length("net.py:make", 100) == Length(128, 10)


def config_of(data: Path, run: Path, **options: object) -> TrainConfig:
    return check_request(TrainRequest.parse({"dataset": data, "run": run, **options})).config


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = np.arange(96)
    pd.DataFrame({"a": rows % 7, "city": np.array(["Ulm", "Bonn", "Trier"])[rows % 3], "y": rows % 2}).to_csv(
        tmp_path / "data.csv", index=False
    )
    fs.convert_csv(tmp_path / "data.csv", tmp_path / "data.zarr", label="y")
    return tmp_path / "data.zarr"


def test_what_an_option_says_holds(table: Path, tmp_path: Path) -> None:
    usual = config_of(table, tmp_path / "run")
    assert (usual.model, usual.batch_size, usual.epochs, usual.recipe.lr) == ("wide-deep", 16, 20, 0.005)
    own = config_of(table, tmp_path / "run", batch_size=32, epochs=2, settings={"lr": 0.1})
    assert (own.model, own.batch_size, own.epochs, own.recipe.lr) == ("wide-deep", 32, 2, 0.1)
    assert config_of(table, tmp_path / "run", model="mlp").batch_size == 128


def test_a_run_goes_on_as_it_began_whatever_would_fit(table: Path, tmp_path: Path) -> None:
    """A run records the names and numbers that it uses, so another rule of what fits changes nothing for it."""
    run = tmp_path / "run"
    began = fs.train(table, run, model="mlp", epochs=1, batch_size=24, folds=2).summary
    assert fs.train(table, run, folds=2).summary == began
    assert fs.train(table, run, model="mlp", folds=2).summary == began
    longer = fs.train(table, run, epochs=2, folds=2).summary
    assert [fold["epoch"] for fold in longer["folds"]] == [2, 2]
    with pytest.raises(ConflictError, match="model was mlp and is now wide-deep"):
        fs.train(table, run, model="wide-deep", folds=2)


def test_a_run_begun_without_a_name_goes_on_with_it(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    began = fs.train(table, run, epochs=1, folds=2).summary
    assert fs.train(table, run, model="wide-deep", folds=2).summary == began
    assert "--model wide-deep --epochs 1 --batch-size 16" in (run / "report.md").read_text()


def test_settings_that_no_chosen_model_has_are_found_before_the_data() -> None:
    asked = {"dataset": "none.zarr", "run": "run"}
    check_settings(TrainRequest.parse({**asked, "settings": {"shift": 2, "lr": 0.1}}))  # digits-cnn has a shift
    with pytest.raises(UsageError, match="--set shifts: this is not a setting"):
        check_settings(TrainRequest.parse({**asked, "settings": {"shifts": 2}}))


def test_wide_and_deep_starts_as_a_linear_model() -> None:
    model = WideDeep((2,), 3, CATEGORY).eval()
    rows = torch.tensor([[0.5, 1.0], [-2.0, 3.0]])
    torch.testing.assert_close(model(rows), model.wide(model.embed(rows)))


@pytest.mark.parametrize("size", [(1, 1), (8, 20), (33, 32), (64, 48), (150, 100)], ids=str)
def test_resnet_takes_images_of_any_size_and_columns(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    assert ResNet((3, *size), 4).eval()(image).shape == (2, 4)
    columns = torch.tensor([[0.5, 1.0], [-2.0, 3.0]])
    both = ResNet({"image": (3, *size), "table": (2,)}, 4, CATEGORY).eval()
    assert both({"image": image, "table": columns}).shape == (2, 4)
    other = both({"image": image, "table": columns.flip(0)})
    assert not torch.equal(both({"image": image, "table": columns}), other)


def test_images_with_columns_beside_them_are_trained_without_options(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    lines = ["name,sick,age,site"]
    for number in range(48):
        Image.fromarray(np.full((16, 16), number % 7, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"{number}.png,{'yes' if number % 2 else 'no'},{20 + number},{'north' if number % 3 else 'south'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    labels: dict[str, Any] = {"labels": tmp_path / "labels.csv", "label": "sick", "feature": ["age", "site"]}
    fs.convert_images(tmp_path / "photos", tmp_path / "data.zarr", size=16, **labels)
    fs.train(tmp_path / "data.zarr", tmp_path / "run", epochs=1, folds=2)
    (tmp_path / "new.csv").write_text("name,age,site\n" + "".join(f"{n}.png,30,west\n" for n in range(48)))
    said: list[str] = []

    listener = fs.Listener(announce=lambda heading, text: said.append(f"{heading}: {text}"))
    table, out = tmp_path / "new.csv", tmp_path / "out.csv"
    assert fs.predict(tmp_path / "run", tmp_path / "photos", out, table=table, listener=listener).rows == 48
    assert "warning: values that do not occur in the training data are treated as unknown: 48 in site" in said
