"""Commands during which the power fails: python -m tests.chaos.power_failures FOLDER runs all of them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from unittest.mock import patch

import numpy as np
from foldstream.cluster.api.summary import merge_run
from foldstream.cluster.runs.run import prepare_run
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import open_dataset
from foldstream.storage.format.images import ImageForm
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import TrainConfig
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, folds_of, is_done
from foldstream.training.settings import resolve_settings
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Kind, Split
from PIL import Image

from ..conftest import append_files

ROWS = 60


@dataclass(frozen=True)
class Scenario:
    """A command that reads `sources` and writes to `root`, and can be repeated until it succeeds. `last` is the file
    that commits the rest. `earlier` writes what it replaces, and `varying` are files that differ each time. `rounded`
    are files whose last digits may differ if the command is repeated. Temporary files are not compared: nothing reads
    what a commit may leave of its own."""

    name: str
    command: Callable[[Path, Path], object]
    last: str
    earlier: Callable[[Path, Path], object] = lambda sources, root: None
    varying: tuple[str, ...] = ()
    rounded: tuple[str, ...] = ()

    def compared(self, tree: dict[str, bytes]) -> dict[str, bytes]:
        return {
            name: data for name, data in tree.items() if not any(fnmatch(name, one) for one in (*self.varying, "*.tmp"))
        }

    def repeated(self, tree: dict[str, bytes]) -> dict[str, bytes]:
        """What another run of the command gives too."""
        return {
            name: b"" if any(fnmatch(name, one) for one in self.rounded) else data
            for name, data in self.compared(tree).items()
        }


def convert_table(path: Path, out: Path, overwrite: bool = False, seed: int | None = None) -> None:
    request = ConvertRequest((describe_source(str(path)),), labels=("label",), shuffle=seed)
    convert(request, out, SerialExecutor(), overwrite=overwrite)


def convert_unlike_its_sample(sources: Path, root: Path) -> None:
    """The sample has no fractions, and the last row has one."""
    with patch("foldstream.pipeline.tables.convert.SAMPLE_BYTES", 50):
        convert_table(sources / "misleading.csv", root / "new" / "folder" / "out.zarr")


def convert_first(sources: Path, root: Path) -> None:
    convert_table(sources / "table.csv", root / "out.zarr")


def replace_table(sources: Path, root: Path) -> None:
    convert_table(sources / "other.csv", root / "out.zarr", overwrite=True, seed=1)


def replace_images(sources: Path, root: Path) -> None:
    request = ImageRequest((str(sources / "images"),), ImageForm((8, 8), "gray"), on_error="skip")
    convert_images(request, root / "out.zarr", SerialExecutor(), overwrite=True)


def append_table(sources: Path, root: Path) -> None:
    append_files(root / "out.zarr", sources / "more.csv")


def split_rows(sources: Path, root: Path, kind: Kind = "kfold") -> None:
    make_plan(open_dataset(sources / "table.zarr"), Split(folds=3, kind=kind), root / "folds.zarr")


def split_by_class(sources: Path, root: Path) -> None:
    split_rows(sources, root, "stratified")


def train(sources: Path, root: Path) -> None:
    """Train two folds in this process, and merge their predictions."""
    dataset, run = open_dataset(sources / "table.zarr"), RunFolder(locate(root / "run"))
    recipe, own = resolve_settings("mlp", {})
    split = Split(folds=2)
    config = TrainConfig(model="mlp", split=split, epochs=2, batch_size=16, recipe=recipe, model_settings=own)
    job = prepare_run(run, dataset, config, SerialExecutor(), silent)
    if left := [fold for fold in range(2) if not is_done(run.fold(fold))]:
        FoldTrainer(folds_of(job, run, left), Process()).train(lambda fold, metrics: None)
    if not run.summary.exists():
        merge_run(run, dataset, SerialExecutor(), silent)


PREDICTED = ("run/folds/*/predictions/*", "run/oof.zarr/prediction/*", "run/oof.zarr/index.safetensors")
TIMED = ("*.json*", "run/report*", "run/tensorboard/*", "run/folds/*/checkpoints/*")
SCENARIOS = {
    one.name: one
    for one in (
        Scenario("new", convert_unlike_its_sample, "new/folder/out.zarr/manifest.json"),
        Scenario("replaced", replace_table, "out.zarr/manifest.json", convert_first),
        Scenario("images", replace_images, "out.zarr/manifest.json", convert_first),
        Scenario("appended", append_table, "out.zarr/versions/0002.json", convert_first),
        Scenario("folds", split_rows, "folds.zarr/manifest.json", split_by_class),
        Scenario("run", train, "run/summary.json", varying=TIMED, rounded=PREDICTED),
    )
}


def make_sources(folder: Path) -> None:
    """The sources of all scenarios, and what they replace."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    for name, last in (("table", "7"), ("other", "8"), ("misleading", "0.5")):
        rows = [f"{a},{b},{'uv'[a % 2]}\n" for a, b in draws.integers(0, 100, (ROWS, 2))]
        (folder / f"{name}.csv").write_text("a,b,label\n" + "".join(rows) + f"{last},1,u\n")
    (folder / "more.csv").write_text("a,b,label\n" + "".join(f"{row},7,v\n" for row in range(20)))
    convert_table(folder / "table.csv", folder / "table.zarr")
    for number in range(24):
        path = folder / "images" / "uv"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:50])


def main(folder: Path) -> None:
    for scenario in SCENARIOS.values():
        scenario.command(folder / "sources", folder / scenario.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
