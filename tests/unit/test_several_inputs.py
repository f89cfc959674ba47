"""`--input`: a model gets its columns as several tensors by name, and computes the same as from one."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.cluster.requests import TrainRequest
from foldstream.storage.errors import UsageError
from foldstream.training.fitted.groups import assign_columns
from foldstream.training.fitted.inputs import plan_inputs
from foldstream.training.model.objective import Normalizer

from .test_inputs import SCHEMA, STATISTICS

NAMES = ("age", "income_a", "income_b", "city", "job")
MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, schema, outputs):
        super().__init__()
        columns = schema.columns
        self.codes = [at for at, column in enumerate(columns) if column.kind == "category"]
        self.numbers = [at for at, column in enumerate(columns) if column.kind != "category"]
        if schema.inputs:
            assert [column.name for column in schema.inputs["codes"]] == [columns[at].name for at in self.codes]
        self.tables = nn.ModuleList(nn.Embedding(columns[at].values, 2) for at in self.codes)
        self.last = nn.Linear(len(self.numbers) + 2 * len(self.codes), outputs)

    def mix(self, numbers, codes):
        return self.last(torch.cat([numbers, *(table(codes[:, at]) for at, table in enumerate(self.tables))], dim=1))

class One(Net):
    def __init__(self, schema, outputs):
        super().__init__(schema, outputs)

    def forward(self, x):
        return self.mix(x[:, self.numbers], x[:, self.codes].long())

class Several(Net):
    def __init__(self, schema, outputs, input_size):
        super().__init__(schema, outputs)
        assert input_size == {"codes": len(self.codes), "numbers": len(self.numbers)}

    def forward(self, x):
        assert x["codes"].dtype == torch.int64 and x["numbers"].dtype == torch.float32
        return self.mix(**x)
"""


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["a=*"], {"a": NAMES}),
        (["a=income*", "b=*"], {"a": ("income_a", "income_b"), "b": ("age", "city", "job")}),
        (["rest=*", "codes=city,job"], {"rest": ("age", "income_a", "income_b"), "codes": ("city", "job")}),
    ],
)
def test_columns_belong_to_the_input_that_names_them(inputs: list[str], expected: dict[str, tuple[str, ...]]) -> None:
    assert assign_columns(NAMES, inputs) == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a=age"], "no input has the column 'income_a'"),
        (["a=age,city", "b=city,*"], "a and b both name the column 'city'"),
        (["a=*", "b=agee"], "no feature 'agee'.*age"),
        (["a=*", "b=x*"], "no column is left"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assign_columns(NAMES, inputs)


@pytest.mark.parametrize("inputs", ["numbers", "=a", "a=", ["a=x", "a=y"]], ids=str)
def test_what_is_no_input_is_refused(inputs: Any) -> None:
    with pytest.raises(UsageError, match="--input"):
        TrainRequest.parse({"dataset": "d", "run": "r", "input": inputs})


@pytest.mark.parametrize("codes", [False, True])
def test_inputs_are_parts_of_the_one_that_a_model_gets_otherwise(codes: bool) -> None:
    x = torch.tensor([[50, 1, 10], [float("nan"), 0, 12]])
    options: dict[str, Any] = {"missing": "indicator+mean", "codes": codes}
    one = Normalizer(plan_inputs(SCHEMA, STATISTICS, **options))(x)
    planned = plan_inputs(SCHEMA, STATISTICS, **options, inputs=["rest=*", "city=city"])
    parts = Normalizer(planned)(x)
    assert planned.shapes == {"rest": (4,), "city": (1 if codes else 3,)}
    assert parts["city"].dtype == (torch.int64 if codes else torch.float32)
    columns = [1] if codes else [2, 3, 4]
    assert torch.equal(parts["city"].float(), one[:, columns])
    assert torch.equal(parts["rest"], one[:, [at for at in range(one.shape[1]) if at not in columns]])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("mode", ["fused", "runs"])
def test_a_model_with_several_inputs_learns_as_the_same_model_with_one(mode: str, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"a": draws.normal(size=200), "city": draws.choice(["x", "y", "z"], 200), "b": draws.random(200)}
    )
    rows["y"] = (rows["a"] > 0) ^ (rows["city"] == "x")
    rows.to_csv(tmp_path / "t.csv", index=False)
    fs.convert_csv(tmp_path / "t.csv", tmp_path / "data.zarr", label="y")
    (tmp_path / "own.py").write_text(MODELS)
    options: dict[str, Any] = {"folds": 2, "epochs": 2, "batch_size": 16, "workers": 0, "fold_mode": mode}
    one = fs.train(tmp_path / "data.zarr", tmp_path / "one", model=f"{tmp_path}/own.py:One", **options).summary
    options["input"] = ["codes=city", "numbers=*"]
    several = fs.train(
        tmp_path / "data.zarr", tmp_path / "several", model=f"{tmp_path}/own.py:Several", **options
    ).summary
    assert several["out_of_fold"] == one["out_of_fold"]
    for fold in range(2):
        found = [(tmp_path / run / f"folds/{fold}/model.safetensors").read_bytes() for run in ("one", "several")]
        assert found[0] == found[1]
    x = torch.tensor([[0.5, 1.0, 0.25]] * 2, dtype=torch.float32)
    first, other = (fs.load_models(tmp_path / run)[0] for run in ("one", "several"))
    assert torch.equal(first(x), other(x))
    assert fs.predict(tmp_path / "several", tmp_path / "data.zarr", tmp_path / "out.csv").rows == 200
    fs.export(tmp_path / "several", tmp_path / "exported")
    exported = torch.jit.load(tmp_path / "exported/fold-0.pt")  # type: ignore[no-untyped-call]
    assert torch.equal(exported(x), other(x))


def test_built_in_models_have_one_input(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n" + "1,2,0\n3,4,1\n" * 50)
    fs.convert_csv(tmp_path / "t.csv", tmp_path / "data.zarr", label="y")
    with pytest.raises(UsageError, match="mlp takes all columns as one tensor"):
        fs.train(tmp_path / "data.zarr", tmp_path / "run", model="mlp", input="all=*")


SMALL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, schema, outputs, values=0, power=1.0):
        super().__init__()
        self.at = [column.kind for column in schema.columns].index("category")
        self.table = nn.Embedding(schema.columns[self.at].values + values, outputs)
        self.power = power

    def forward(self, x):
        scores = self.table(x[:, self.at].long())
        return scores + (x[:, :1] ** self.power - x[:, :1] ** self.power)
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": -1}, r"own\.py, line 13: IndexError: index out of range"),
        ({"power": 0.5}, "returns numbers that are not finite for the first rows"),
    ],
)
def test_what_fails_on_the_values_of_the_data_is_told_before_the_run_begins(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("a,city,y\n" + "1,A,0\n3,B,1\n" * 50)
    fs.convert_csv(tmp_path / "t.csv", tmp_path / "data.zarr", label="y")
    (tmp_path / "own.py").write_text(SMALL)
    with pytest.raises(UsageError, match=message):
        fs.train(tmp_path / "data.zarr", tmp_path / "run", model=f"{tmp_path}/own.py:Net", settings=settings)
    assert not (tmp_path / "run").exists()
