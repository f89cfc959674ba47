"""An option is defined once: the command line, keywords, job files and the command in a report all have it."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
import typer
from foldstream.cluster.api.job_file import load_job_file, parse_job
from foldstream.cluster.requests import (
    ConvertImagesRequest,
    ConvertTablesRequest,
    PredictRequest,
    SplitRequest,
    TrainRequest,
    words_of,
)
from foldstream.cluster.runs.run import prepare_run
from foldstream.cluster.terminal.request_options import parameters_of, request_command
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.options import Options
from foldstream.storage.places.json_files import read_json, write_json
from foldstream.storage.tasks import SerialExecutor, silent
from pydantic import Field
from typer.testing import CliRunner

from .test_training import make_job

PLACES = {"dataset": "rows.zarr", "run": "runs/first"}
REQUESTS: dict[str, tuple[type[Options], Any]] = {
    "train": (TrainRequest, fs.train),
    "split": (SplitRequest, fs.split_rows),
    "predict": (PredictRequest, fs.predict),
    "convert csv": (ConvertTablesRequest, fs.convert_csv),
    "convert images": (ConvertImagesRequest, fs.convert_images),
}
CHANGED: list[dict[str, Any]] = [
    {},
    {"model": "mlp", "epochs": 3, "seed": 7, "refit": True, "workers": 2, "memory": "2GB", "gap": 1.5},
    {"settings": {"lr": "0.01,0.03", "optimizer": "SGD"}, "split": "group", "group_column": "the patient"},
    {"callbacks": ["mlflow=first run", "own.py:make"], "checkpoint_every": "500 steps", "plan": "weekly"},
]


def parsed(request: type[Options], words: list[str]) -> Options:
    """What a command makes of its arguments."""
    app, requests = typer.Typer(), list[Options]()
    request_command(app, request, "command")(requests.append)
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return requests[0]


@pytest.mark.parametrize("changed", CHANGED, ids=lambda changed: " ".join(changed) or "defaults")
def test_the_command_of_a_request_asks_for_it(changed: dict[str, Any]) -> None:
    request = TrainRequest.parse({**PLACES, **changed})
    again = parsed(TrainRequest, words_of(request))
    for name in TrainRequest.model_fields:
        one, other = getattr(request, name), getattr(again, name)
        assert (list(one) == list(other)) if name == "callbacks" else (one or None) == (other or None), name


@pytest.mark.parametrize("command", REQUESTS)
def test_every_field_is_an_option_and_a_keyword(command: str) -> None:
    request, function = REQUESTS[command]
    own = set(inspect.signature(function).parameters)
    assert own == {*request.model_fields, "listener", "progress", "client"}
    described = [field.description for field in request.model_fields.values() if field.description]
    assert len(described) == len(request.model_fields) - ("csv" in request.model_fields)
    options = {parameter.name for parameter in parameters_of(request)}
    assert len(options) >= len(request.model_fields) - ("csv" in request.model_fields)


def test_a_new_option_is_written_in_one_place(tmp_path: Path) -> None:
    class Extended(TrainRequest):
        patience_factor: float = Field(default=1.0, gt=0, description="An option that was just added.")

    request = parsed(Extended, [*PLACES.values(), "--patience-factor", "2.5"])
    assert isinstance(request, Extended)
    assert request.patience_factor == 2.5
    assert "--patience-factor 2.5" in " ".join(words_of(request))
    assert Extended.parse({**PLACES, "patience_factor": 3.0}).patience_factor == 3.0
    with pytest.raises(UsageError, match=r"--patience-factor 0: must be greater than 0"):
        Extended.parse({**PLACES, "patience_factor": 0})


def test_a_run_from_before_an_option_existed_is_resumed(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path / "run")
    stored = read_json(run.job)
    del stored["config"]["refit"]
    del stored["config"]["recipe"]["patience"]
    write_json(run.job, stored)
    assert prepare_run(run, digits, job.config, SerialExecutor(), silent) == job
    other = job.config.model_copy(update={"refit": True})
    with pytest.raises(ConflictError, match="refit was False and is now True"):
        prepare_run(run, digits, other, SerialExecutor(), silent)


def test_a_job_file_is_requests(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        '[convert.csv]\nsources = "a.csv"\nout = "a.zarr"\nlabel = "y"\ncsv = {delimiter = ";"}\n'
        '[train]\nrun = "run"\nsettings = {lr = [0.1, 0.2]}\n[predict]\nsource = "b.csv"\nout = "b-out.csv"\n'
    )
    job = parse_job(load_job_file(tmp_path / "job.toml"))
    assert isinstance(job.convert, ConvertTablesRequest)
    assert job.convert.csv.delimiter == ";"  # type: ignore[union-attr]
    assert job.train is not None
    assert (job.train.dataset, job.train.run) == (f"{tmp_path}/a.zarr", f"{tmp_path}/run")
    assert job.predict is not None
    assert job.predict.run == job.train.run


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ConvertTablesRequest, {"dtype": "int8x"}, "--dtype 'int8x' is not valid: did you mean 'int8'"),
        (ConvertTablesRequest, {"missing": "mean"}, "must be keep or error; missing values are stored as such"),
        (ConvertTablesRequest, {"on_error": "ignore"}, "choose from stop, skip"),
        (ConvertImagesRequest, {"color": "green"}, "--color 'green' is not valid: choose from rgb, gray"),
        (ConvertImagesRequest, {"fit": "crp"}, "did you mean 'crop'"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_nearest_one(
    kind: type[Options], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        kind.parse({"sources": "a.csv", "out": "a.zarr", **options})
    assert message in str(caught.value)


def test_the_requests_load_nothing_heavy() -> None:
    code = "import sys, json, foldstream.cli; print(json.dumps(sorted(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "ray", "distributed", "dask", "numba", "numpy", "pyarrow", "zarr", "pandas"} & set(
        json.loads(shown)
    )
