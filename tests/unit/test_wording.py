"""Errors of calls from Python speak of keywords and functions, not of flags and commands."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import foldstream as fs
import pytest
from foldstream.cluster.wording import in_python
from foldstream.storage.errors import UsageError


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ("--batch-size 64: must be a whole number", "batch_size=64: must be a whole number"),
        (
            "use --columns union or --columns first",
            'use columns="union" or columns="first"',
        ),
        ("fix the row, or skip such rows with --on-error skip", 'fix the row, or skip such rows with on_error="skip"'),
        ("check --label, --id and --group", "check label, id and group="),
        (
            "--size, --like: samples have the size of those of --like",
            "size, like: samples have the size of those of like=",
        ),
        ("convert them with --like and the dataset", "convert them with like= and the dataset"),
        ("choose another name, or use --overwrite", "choose another name, or use overwrite=True"),
        ("drop the column with --ignore 'a b'", "drop the column with ignore='a b'"),
        ("convert it with --weight COLUMN", "convert it with weight=COLUMN"),
        ("--set stack=true computes all folds as one", 'settings={"stack": True} computes all folds as one'),
        ("--set precision=float8 is not valid", 'settings={"precision": "float8"} is not valid'),
        ("--set: the grid has too many", "settings: the grid has too many"),
        ("use --encoding latin-1", 'use csv={"encoding": "latin-1"}'),
        ("--model mlp takes no columns", 'model="mlp" takes no columns'),
        ("--dataset is required", "dataset is required"),
        ("start a run with 'foldstream train DATASET RUN'", "start a run with fs.train(DATASET, RUN)"),
        ("run its 'foldstream train' command again", "run its fs.train(...) call again"),
        ("repair it with 'foldstream verify d.zarr --repair'", 'repair it with fs.verify("d.zarr", repair=True)'),
        ("then run the same command again to resume", "then make the same call again to resume"),
        ("'foldstream status runs/a' shows it", "'foldstream status runs/a' shows it"),
        ("a file called my--file.csv", "a file called my--file.csv"),
    ],
)
def test_a_message_is_translated(message: str, translated: str) -> None:
    assert in_python(message, {"model": "mlp"}) == translated


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: fs.train(folder, folder / "run", batch_size=0), "^batch_size=0: must be at least 1$"),
        (lambda folder: fs.train(folder, folder / "run", split="kfolds"), "^split='kfolds' is not valid"),  # type: ignore[arg-type]
        (
            lambda folder: fs.train(folder / "no.zarr", folder),
            r"create it with fs.convert_csv\(SOURCE, .*label=COLUMN\)",
        ),
        (lambda folder: fs.Run(folder), r"start a run with fs.train\(DATASET, RUN\)"),
        (lambda folder: fs.load_models(folder), r"start a run with fs.train\(DATASET, RUN\)"),
        (lambda folder: fs.convert(folder, folder / "out.zarr", like=None), "contains no CSV files"),
        (lambda folder: fs.convert(folder, folder / "out.zarr", size=[8, 8, 8]), "^size=.* must be a single number"),
        (lambda folder: fs.convert(folder, folder / "out.zarr", csv={"delimitr": ";"}), "^delimitr is not an option"),
    ],
    ids=["bounds", "choice", "no dataset", "no run", "no models", "no tables", "images", "dialect"],
)
def test_errors_of_calls_name_keywords(call: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(fs.FoldstreamError, match=message):
        call(tmp_path)


def test_the_command_line_keeps_its_flags(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "foldstream.cli",
        "train",
        str(tmp_path),
        str(tmp_path / "run"),
        "--batch-size",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "--batch-size 0: must be at least 1" in done.stderr


def test_the_public_names_are_listed() -> None:
    assert {*fs.__all__} <= {*dir(fs)}
    assert not [name for name in dir(fs) if name.startswith("_") and not name.startswith("__")]
    text = fs.train.__doc__ or ""
    assert "Returns:" in text
    assert list(inspect.signature(fs.train).parameters)[:3] == ["dataset", "run", "model"]
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        fs.trian  # noqa: B018


def test_unknown_keywords_of_a_call_are_named() -> None:
    with pytest.raises(UsageError, match=r"^progress=.no.: must be true or false"):
        fs.split_rows("x", progress="no")  # type: ignore[arg-type]
