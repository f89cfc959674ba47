"""The docstring of each public name has the sections that people look for, and its example runs as it stands there."""

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bokeh.io
import bokeh.resources
import foldstream as fs
import numpy
import pandas
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_iris

JOB = """
[convert.csv]
sources = "flowers.csv"
out = "flowers.zarr"
label = "species"

[train]
run = "runs/job"
model = "mlp"
folds = 2
epochs = 1
batch_size = 16
"""
PUBLIC = {"fs": fs, "bokeh": bokeh, "numpy": numpy, "pandas": pandas, "torch": torch}


def documented() -> Iterator[tuple[str, str]]:
    """The public names and the public methods of classes with a docstring."""
    for name in fs.__all__:
        found = getattr(fs, name)
        yield name, inspect.getdoc(found) or ""
        for inner, method in vars(found).items() if inspect.isclass(found) else ():
            if not inner.startswith("_") and inspect.isfunction(method):
                yield f"{name}.{inner}", inspect.getdoc(method) or ""


DOCS = dict(documented())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples use: irises in a CSV file, a dataset and a run; photographs; a job file."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        iris = load_iris(as_frame=True)
        names = {name: name.removesuffix(" (cm)").replace(" ", "_") for name in iris.feature_names}
        frame = iris.frame.rename(columns=names).drop(columns="target")
        frame.assign(species=iris.target_names[iris.target]).to_csv("flowers.csv", index=False)
        frame.assign(species=iris.target_names[iris.target]).to_csv("more_flowers.csv", index=False)
        for number in range(8):
            file = Path("photos", "cat" if number % 2 else "dog", f"{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 30), (30 * number, 0, 0)).save(file)
        numpy.savez("digits.npz", images=numpy.zeros((60, 8, 8), numpy.uint8), labels=numpy.arange(60) % 10)
        Path("job.toml").write_text(JOB)
        fs.convert("flowers.csv", "flowers.zarr", label="species")
        fs.convert("flowers.csv", "garden.zarr", label="species")
        fs.train("flowers.zarr", "runs/flowers", model="mlp", folds=3, epochs=5, batch_size=16)
        fs.train("flowers.zarr", "runs/wide", model="wide-deep", folds=3, epochs=5, batch_size=16)
        fs.ensemble(["runs/flowers", "runs/wide"], "runs/both")
    return folder


@pytest.mark.parametrize("name", [name for name, text in DOCS.items() if ">>>" in text])
def test_the_example_runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example: Any = doctest.DocTestParser().get_doctest(DOCS[name], {**PUBLIC}, name, name, 0)
    said = list[str]()
    failed, tried = doctest.DocTestRunner(verbose=False, optionflags=flags).run(example, out=said.append)
    assert tried
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", fs.__all__)
def test_public_names_are_documented(name: str) -> None:
    sections = ["Example:"] if inspect.isclass(getattr(fs, name)) else ["Args:", "Returns:", "Raises:", "Example:"]
    assert [one for one in sections if one not in DOCS[name]] == []
