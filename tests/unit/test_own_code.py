"""The user's own code: what belongs to it travels with the run, by hash, and is all that the run needs."""

import functools
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
import torch
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.requests import TrainRequest
from foldstream.cluster.submit.submission import pack_job
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.places.locate import locate
from foldstream.storage.programs.own_code import MOST_FILES, collect_code
from foldstream.training.run import RunFolder, load_job
from foldstream.training.zoo.factory import load_factory
from torch import nn

from ..conftest import convert_file, table

OPTIONS: dict[str, Any] = {"folds": 2, "epochs": 1, "batch_size": 16, "workers": 0}
PROJECT = {
    "net.py": """
        from __future__ import annotations

        from dataclasses import dataclass
        from pathlib import Path

        import layers
        import parts.head as head
        import parts.inner, torch
        from torch import nn

        @dataclass
        class Widths:
            hidden: int = 4

        WIDTH = int((Path(__file__).parent / "data" / "width.txt").read_text())

        def make(in_features, num_classes, scale=1.0):
            from lazy import check

            check(layers, parts.inner)
            return nn.Sequential(layers.Layer(in_features, WIDTH), head.make(Widths(WIDTH), num_classes))
        """,
    "layers.py": """
        from torch import nn

        class Layer(nn.Linear):
            pass
        """,
    "lazy.py": """
        def check(layers, inner):
            from layers import Layer

            assert layers.Layer is Layer and inner.KNOWN
        """,
    "parts/__init__.py": "from .head import make",
    "parts/inner.py": "KNOWN = True",
    "parts/head.py": """
        from torch import nn
        from . import inner
        from parts.inner import KNOWN

        def make(widths, outputs):
            return nn.Linear(widths.hidden, outputs)
        """,
    "data/width.txt": "6",
    "unused.py": "raise AssertionError",
    "parts/unused.py": "raise AssertionError",
}
TAKEN = ["data/width.txt", "layers.py", "lazy.py", "net.py", "parts/__init__.py", "parts/head.py", "parts/inner.py"]


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write sources, whose indentation is that of the test."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        margin = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        (folder / name).write_text("\n".join(line[margin:] for line in lines))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "t.csv").write_text(table(200))
    convert_file(folder / "t.csv", folder / "t.zarr", "label")
    return folder / "t.zarr"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project", PROJECT)


def weights(run: Path) -> list[bytes]:
    return [(run / f"folds/{fold}/model.safetensors").read_bytes() for fold in range(2)]


def test_a_run_needs_nothing_but_its_copy_of_the_code(data: Path, project: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "model": f"{project}/net.py:make", "asset": project / "data"}
    run = tmp_path / "run"
    fs.train(data, run, **options)
    assert sorted(str(path.relative_to(run / "code")) for path in (run / "code").rglob("*") if path.is_file()) == TAKEN
    (before, _), expected = fs.load_models(run), weights(run)
    kept = tmp_path / "elsewhere"
    project.rename(kept)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "folds/1")
    fs.train(data, run, **options)
    assert weights(run) == expected
    assert fs.predict(run, data, tmp_path / "out.csv").rows == 200
    code = f"import foldstream as fs; print(len(list(fs.load_models({str(run)!r})[0].parameters())))"
    assert subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, check=True).stdout == b"4\n"
    (run / "code/layers.py").write_text("")
    with pytest.raises(ConflictError, match=r"code/layers\.py is missing or has changed"):
        fs.load_models(run)
    shutil.copy(kept / "layers.py", run / "code")
    (after, _) = fs.load_models(run)
    assert all(one.equal(other) for one, other in zip(before.parameters(), after.parameters(), strict=True))
    command = json.loads((run / "report.json").read_text())["command"]
    assert f"--model {run}/code/./net.py:make" in command
    assert f"--asset {run}/code/data/width.txt" in command


def test_a_run_goes_on_if_only_some_of_its_code_is_gone(
    data: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loss.py").write_text("from torch.nn.functional import cross_entropy\n")
    monkeypatch.chdir(tmp_path)  # around the project and the run
    options = {**OPTIONS, "model": "project/net.py:make", "asset": "project/data"}
    options["settings"] = {"loss": "loss.py:cross_entropy"}
    root = RunFolder(locate(tmp_path / "run"))
    prepared(data, root, options)
    project.rename(tmp_path / "gone")
    prepared(data, root, options)


@pytest.mark.parametrize(
    ("file", "change"),
    [("layers.py", "has changed"), ("parts/head.py", "has changed"), ("data/width.txt", "has changed")],
)
def test_a_change_of_any_file_is_a_conflict_that_names_it(
    file: str, change: str, data: Path, project: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "model": f"{project}/net.py:make", "asset": f"{project}/data/width.txt"}
    root = RunFolder(locate(tmp_path / "run"))
    prepared(data, root, options)
    (project / "unused.py").write_text("another")
    prepared(data, root, options)
    (project / file).write_text((project / file).read_text() + "\n")
    with pytest.raises(ConflictError, match=f"the file {file} of the code {change}"):
        prepared(data, root, options)
    with (project / "layers.py").open("a") as source:
        source.write("\nimport unused\n")
    with pytest.raises(ConflictError, match=r"the file unused\.py of the code is new"):
        prepared(data, root, options)


def prepared(data: Path, root: RunFolder, options: dict[str, Any]) -> None:
    """Claim a run's folder as `train` does, and train nothing."""
    from foldstream.cluster.api.training_request import check_request
    from foldstream.cluster.runs.run import prepare_run
    from foldstream.storage.tasks import SerialExecutor, silent

    asked = check_request(TrainRequest.parse({"dataset": data, "run": str(root.root), **options}))
    prepare_run(root, asked.dataset, asked.configs[""], SerialExecutor(), silent)


def test_an_asset_that_is_not_named_is_missed_before_the_run_begins(data: Path, project: Path, tmp_path: Path) -> None:
    message = rf"net\.py, line 15: FileNotFoundError.*name it by asset=.*{project}/data/width\.txt"
    with pytest.raises(UsageError, match=message):
        fs.train(data, tmp_path / "run", model=f"{project}/net.py:make", **OPTIONS)
    assert not (tmp_path / "run").exists()
    for asset, reason in (("none.txt", "there is no such file"), ("..", "does not lie beside the code")):
        with pytest.raises(UsageError, match=reason):
            collect_code([f"{project}/net.py:make"], [f"{project}/{asset}"])
    with pytest.raises(UsageError, match="no file of yours is used"):
        collect_code(["mlp", "torch.nn:Linear"], [str(project / "data")])


def test_two_versions_of_a_module_stand_side_by_side(project: Path, tmp_path: Path) -> None:
    other = shutil.copytree(project, tmp_path / "other")
    for folder, width in ((project, 6), (other, 7)):
        (folder / "net.py").write_text(
            "import layers\nimport layers as again\n\ndef make(shape, outputs):\n"
            "    assert again is layers\n    return layers.Layer(layers.WIDTH, outputs)\n"
        )
        with (folder / "layers.py").open("a") as file:
            file.write(f"\nWIDTH = {width}\n")
    first, second = (load_factory(f"{folder}/net.py:make")((1,), 2) for folder in (project, other))
    assert [one.get_parameter("weight").shape for one in (first, second)] == [(2, 6), (2, 7)]
    assert type(first) is not type(second)
    assert "layers" not in sys.modules


def test_a_module_of_the_current_folder_travels_and_an_installed_one_does_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    write(
        tmp_path / "work",
        {
            "models/tiny.py": "from models.sizes import Layer\n\ndef make(in_features, n):\n"
            "    return Layer(in_features, n)\n",
            "models/sizes.py": "from torch.nn import Linear as Layer",
        },
    )
    monkeypatch.chdir(tmp_path / "work")
    fs.train(data, tmp_path / "run", model="models.tiny:make", **OPTIONS)
    shutil.rmtree(tmp_path / "work/models")
    assert load_job(RunFolder(locate(tmp_path / "run"))).code.keys() == {"models/tiny.py", "models/sizes.py"}
    assert len(fs.load_models(tmp_path / "run")) == 2
    assert collect_code(["foldstream.training.zoo.networks:mlp"]).files == {}


def test_folders_with_too_much_are_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("")
    (tmp_path / "data").mkdir()
    for number in range(MOST_FILES + 1):
        (tmp_path / "data" / str(number)).touch()
    with pytest.raises(UsageError, match="more than 500 files"):
        collect_code([f"{tmp_path}/own.py:make"], [f"{tmp_path}/data"])


@pytest.mark.parametrize("model", ["net.py:make", "parts/head.py:make"])
def test_a_job_is_sent_with_all_its_code(
    model: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "job.toml").write_text(f'[train]\ndataset = "d"\nrun = "r"\nmodel = "{model}"\nasset = "data"\n')
    sent = tmp_path / "sent"
    monkeypatch.chdir(project)
    pack_job(load_job_file(project / "job.toml"), sent)
    shutil.rmtree(project)
    train = load_job_file(sent / "job.toml")["train"]
    assert train["asset"] == [f"{sent}/data/width.txt"]
    code = collect_code([train["model"]], train["asset"])  # the current folder is gone
    assert (code.names, code.assets) == ({train["model"]: model}, ("data/width.txt",))
    assert sorted(code.files) == (TAKEN if model.startswith("net") else [TAKEN[0], *TAKEN[4:]])


MODULE = """
import functools
from torch import nn

def resnet(weights=None, in_channels=3, num_classes=1000):
    return nn.Sequential(nn.Linear(in_channels, num_classes))

class Net(nn.Module):
    def __init__(self, sample_shape, outputs, sizes=()):
        super().__init__()
        self.layers = nn.Linear(sample_shape[0], outputs)

    @classmethod
    def build(cls, sample_shape, outputs):
        return cls(sample_shape, outputs)

    def forward(self, x):
        return self.layers(x)

def loss(logits, y, weight=None):
    return nn.functional.cross_entropy(logits, y)

def jitter(x, y, generator):
    return x, y

def outer():
    def inner(sample_shape, outputs): ...
    return inner
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/my_models.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield importlib.import_module("my_models")
    sys.modules.pop("my_models")


def test_functions_classes_and_partials_are_models(data: Path, own: Any, tmp_path: Path) -> None:
    model = functools.partial(own.Net, sizes=(1, 2))
    fs.train(data, tmp_path / "run", model=model, settings={"loss": own.loss}, augment=own.jitter, **OPTIONS)
    job = load_job(RunFolder(locate(tmp_path / "run")))
    assert (list(job.code), job.config.model_settings) == (["my_models.py"], {"sizes": [1, 2]})
    kept = f"{tmp_path}/run/code/./my_models.py"
    assert job.config.code == (f"{kept}:Net", f"{kept}:loss", f"{kept}:jitter")
    shutil.rmtree(tmp_path / "lib")
    assert len(fs.load_models(tmp_path / "run")) == 2


def test_losses_are_candidates_of_a_grid(own: Any) -> None:
    settings = {"loss": ["auto", own.loss], "lr": 0.1}
    request = TrainRequest.parse({"dataset": "d", "run": "r", "settings": settings, "augment": [own.jitter, "crop"]})
    assert request.settings == {"loss": ["auto", f"{own.__file__}:loss"], "lr": 0.1}
    assert request.augmentations == (f"{own.__file__}:jitter", "crop")
    with pytest.raises(UsageError, match=r"loss: a functools\.partial of loss; define a function instead"):
        TrainRequest.parse({"dataset": "d", "run": "r", "settings": {"loss": functools.partial(own.loss, weight=1)}})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda own: lambda shape, outputs: None, "a lambda cannot travel"),
        (lambda own: own.outer(), r"outer\.<locals>\.inner, which is defined inside a function"),
        (lambda own: nn.Linear(1, 1), "an object of the class Linear cannot travel"),
        (lambda own: functools.partial(own.Net, (3,)), "arguments by position; give them by name"),
        (lambda own: functools.partial(own.Net, sizes=torch.zeros(1)), "gives sizes an object of the class Tensor"),
        (lambda own: functools.partial(own.resnet, num_classes=3), "the model gets this from the data"),
        (lambda own: functools.partial(own.Net, momentum=0.1), "gives 'momentum', which is a setting of the training"),
    ],
)
def test_what_cannot_travel_is_refused(make: Any, message: str, data: Path, own: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fs.train(data, tmp_path / "run", model=make(own), **OPTIONS)


SCRIPT = """
import math
import sys
from dataclasses import dataclass

import foldstream as fs
from torch import nn

import beside

SIZES = {"hidden": 4}
x = object()

@dataclass
class Config:
    hidden: int = SIZES["hidden"]

class Block(nn.Sequential):
    pass

def make(sample_shape, outputs, config=None):
    x = math.prod(sample_shape) * beside.ONE
    config = config or Config()
    return Block(nn.Linear(x, config.hidden), nn.Linear(config.hidden, outputs))

summary = fs.train(sys.argv[1], sys.argv[2], model=make, folds=2, epochs=1, batch_size=16).summary
"""


def test_a_script_gives_its_own_function_and_is_not_run_again(data: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("ONE = 1\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(data), str(tmp_path / "run")]
    subprocess.run(command, check=True, cwd="/")
    subprocess.run(command, check=True, cwd="/")
    (tmp_path / "script.py").unlink()
    (tmp_path / "beside.py").unlink()
    assert len(list(fs.load_models(tmp_path / "run")[0].parameters())) == 4
    assert {path.name for path in (tmp_path / "run/code").iterdir()} == {"make.py", "beside.py"}
