"""How stored rows become a model's input: scaling, missing values, categories, and the columns that a factory gets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foldstream.storage.errors import UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.training.fitted.inputs import InputColumn, describe_inputs, plan_inputs
from foldstream.training.fitted.strategies import parse_fill, parse_scaling
from foldstream.training.model.objective import Normalizer
from foldstream.training.zoo.arguments import settings_in
from foldstream.training.zoo.factory import build_model, signature_of, takes_schema
from foldstream.training.zoo.networks import Embeddings

NAN = float("nan")
SCHEMA = Schema(
    ("age", "city", "day"),
    (3,),
    "float32",
    ("left",),
    "classification",
    "uint8",
    ("no", "yes"),
    categories={"city": ("A", "B")},
    dates={"day": "days"},
)
STATISTICS = Statistics(
    mean=(40.0, 0.5, 10.0),
    std=(10.0, 0.5, 0.0),
    minimum=(20.0, 0.0, 10.0),
    maximum=(60.0, 1.0, 10.0),
    missing=(3, 2, 1),
    median=(38.0, 0.0, 10.0),
)
ROWS = torch.tensor([[50.0, 1.0, 10.01], [NAN, 2.0, NAN]])


def prepared(rows: torch.Tensor = ROWS, statistics: Statistics = STATISTICS, **options: Any) -> list[list[float]]:
    """What a model gets for some rows, rounded."""
    inputs = plan_inputs(SCHEMA, statistics, **options)
    result = Normalizer(inputs)(rows)
    assert tuple(result.shape[1:]) == inputs.shape
    return np.round(result.numpy().astype(float), 4).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]),
        ({"codes": True}, [[1, 1, 0], [0, 2, 0]]),
        ({"codes": True, "missing": "median"}, [[1, 1, 0], [-0.2, 2, 0]]),
        ({"codes": True, "missing": "constant=0"}, [[1, 1, 0], [-4, 2, 0]]),
        ({"codes": True, "missing": "indicator"}, [[1, 1, 0, 0, 0], [0, 2, 0, 1, 1]]),
        ({"missing": "indicator+median"}, [[1, 0, 0, 1, 0, 0, 0], [-0.2, 0, 0, 0, 1, 1, 1]]),
        ({"codes": True, "normalize": ["none"]}, [[50, 1, 10.01], [40, 2, 10]]),
        ({"codes": True, "normalize": ["age=minmax"]}, [[0.75, 1, 0], [0.5, 2, 0]]),
        ({"codes": True, "normalize": ["age=30:5", "minmax"]}, [[4, 1, 0], [2, 2, 0]]),
    ],
    ids=str,
)
def test_rows_are_scaled_filled_and_marked(options: dict[str, Any], expected: list[list[float]]) -> None:
    assert prepared(**options) == expected


def test_whole_numbers_have_no_missing_values_to_mark_and_may_follow_rows_that_had() -> None:
    assert prepared(torch.tensor([[50, 1, 10]], dtype=torch.uint8), codes=True, missing="indicator") == [
        [1, 1, 0, 0, 0]
    ]


def test_a_factory_that_asks_gets_the_columns() -> None:
    columns = plan_inputs(SCHEMA, STATISTICS, "indicator", codes=True).schema.columns
    assert columns == (
        InputColumn("age", "number"),
        InputColumn("city", "category", 3),
        InputColumn("day", "date"),
        InputColumn("age", "missing"),
        InputColumn("day", "missing"),
    )
    assert takes_schema("mlp")
    assert not takes_schema("digits-cnn")
    assert "schema" not in settings_in(signature_of("mlp"))


def test_a_category_with_many_values_is_a_number_to_a_model_without_columns_and_that_is_told() -> None:
    many = replace(SCHEMA, categories={"city": tuple(map(str, range(500)))})
    assert plan_inputs(many, STATISTICS).shape == (3,)
    notes = describe_inputs(many, STATISTICS, "indicator+mean", codes=False)
    assert notes["missing values"].startswith("4 in age, day: filled with the mean of each fold's training rows")
    assert notes["categories"].startswith("city: more than 64 values")
    assert "categories" not in describe_inputs(many, STATISTICS, "mean", codes=True)


def test_an_mlp_has_an_embedding_for_each_category_and_nothing_for_unknown_values() -> None:
    inputs = plan_inputs(SCHEMA, STATISTICS, codes=True)
    model = build_model("mlp", inputs, 2, {"hidden": 4})
    first = next(model.children())
    assert isinstance(first, Embeddings)
    vectors = first(torch.tensor([[0.5, 0.0, 0.1], [0.5, 2.0, 0.1]]))
    assert vectors[:, :2].tolist() == [[0.5, pytest.approx(0.1)]] * 2
    assert vectors[0, 2:].abs().min() > 0
    assert vectors[1, 2:].abs().max() == 0


@pytest.mark.parametrize("constant", [14.62, 0.1, 1 / 3, 1e9 + 0.1])
@pytest.mark.parametrize("normalize", [(), ("minmax",)], ids=["standard", "minmax"])
def test_a_constant_column_says_nothing(constant: float, normalize: tuple[str, ...]) -> None:
    mean = float(np.mean(np.full(1000, constant)))  # which rounding has moved
    std = float(np.std(np.full(1000, constant)))
    one = Statistics((mean,), (std,), (constant,), (constant,))
    plan = plan_inputs(Schema(("a",), (1,), "float64"), one, normalize=normalize)
    rows = torch.tensor([[constant], [constant + 0.01]], dtype=torch.float64)
    assert Normalizer(plan)(rows).tolist() == [[0.0], [0.0]]


def test_imagenet_scales_bytes_and_colors() -> None:
    schema = Schema((), (3, 2, 2), "uint8", image=ImageForm((2, 2)))
    zero = (0.0, 0.0, 0.0)
    plan = plan_inputs(schema, Statistics(zero, zero, zero, zero), normalize=["imagenet"])
    white = Normalizer(plan)(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0]
    expected = [(1 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert white.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("text", ["", "Mean", "constant", "constant=x", "constant=inf", "indicator+", "mean+indicator"])
def test_strategies_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be mean, median, constant=NUMBER or indicator"):
        parse_fill(text)


@pytest.mark.parametrize("text", ["", "age", "age=", "1,2:3", "1:0", "nan:1", "standard:1"])
def test_scalings_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be standard, minmax|needs as many means"):
        parse_scaling(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": ["aeg=none"]}, "has no feature 'aeg'; did you mean 'age'"),
        ({"normalize": ["1,2:3,4"]}, "2 means do not match 3 channels"),
    ],
)
def test_options_that_do_not_fit_the_data_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_inputs(SCHEMA, STATISTICS, **options)


def test_images_have_no_place_for_marks() -> None:
    with pytest.raises(UsageError, match=r"which is not possible for samples of shape \(1, 2, 2\)"):
        plan_inputs(Schema((), (1, 2, 2), "float32"), Statistics((0.0,), (1.0,), (0.0,), (1.0,)), "indicator")


def test_a_users_factory_gets_the_columns_too(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def make(sample_shape, outputs, *, schema, width=3):\n"
        "    assert [column.name for column in schema.columns] == ['age', 'city', 'day']\n"
        "    assert schema.classes == ('no', 'yes')\n"
        "    return nn.Linear(sample_shape[0], outputs)\n"
    )
    name = f"{tmp_path / 'own.py'}:make"
    assert settings_in(signature_of(name)) == {"width": 3}
    build_model(name, plan_inputs(SCHEMA, STATISTICS, codes=takes_schema(name)), 2, {})
