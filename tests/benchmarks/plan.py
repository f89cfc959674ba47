"""`make bench-plan`: estimates by `foldstream plan` for two jobs of a terabyte, from the speed of one core.

python -m tests.benchmarks.plan. The local sources are samples of the terabyte: the example's digits, and photographs.
"""

import gzip
import tempfile
from pathlib import Path

from foldstream.cluster.planning.job import estimate_job
from foldstream.cluster.planning.text import FORECAST_COLUMNS, forecast_row
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

from .record import machine, write_section
from .rows import make_images

EXAMPLES = Path(__file__).parents[2] / "examples"
COPIES = 12  # copies of the example's rows, so that there is enough to measure
IMAGES = 400
NODES, CORES, PRICE = (1, 4, 16), 64, 2.5
TRAIN = "[train]\nrun = 'run'\nfolds = 5\nepochs = 5\nbatch_size = 4096\nworkers = 64\n"


def write_digits(folder: Path) -> str:
    """Write digits as CSV. Returns a job that trains on them."""
    header, *rows = gzip.decompress((EXAMPLES / "digits" / "train.csv.gz").read_bytes()).splitlines(keepends=True)
    (folder / "digits.csv").write_bytes(b"".join([header, *rows * COPIES]))
    convert = "[convert.csv]\nsources = ['digits.csv']\nout = 'data.zarr'\nlabel = 'label'\nshape = [1, 28, 28]\n"
    return f"{convert}{TRAIN}model = 'digits-cnn'\n"


def write_photographs(folder: Path) -> str:
    """Write crops of photographs as JPEG files of 375 x 375 pixels. Returns a job that trains on them."""
    x, y = make_images(375)(0, IMAGES)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        target = folder / "photographs" / str(label) / f"{number:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(target, quality=90)
    convert = "[convert.images]\nsources = ['photographs']\nout = 'data.zarr'\nsize = 64\n"
    return f"{convert}{TRAIN}model = '{EXAMPLES / 'textures' / 'model.py'}:texture_net'\n"


JOBS = {
    "1 TB of CSV, digits, `digits-cnn`": write_digits,
    "1 TB of JPEG, photographs of 375 x 375 drawn at 64 x 64, the example's `texture_net`": write_photographs,
}


def main() -> None:
    text = []
    for title, write in JOBS.items():
        with tempfile.TemporaryDirectory(prefix="bench-plan-") as name:
            job = Path(name, "job.toml")
            job.write_text(write(Path(name)))
            plan = estimate_job(job, NODES, CORES, PRICE, "1TB")
        text += [f"**{title}**:", "", "| quantity | estimate |", "|---|---|"]
        text += [*(f"| {name} | {value} |" for name, value in plan.facts), ""]
        text += [f"| {' | '.join(FORECAST_COLUMNS)} |", "|---:|---:|---:|---:|---:|"]
        text += [*(f"| {' | '.join(forecast_row(forecast))} |" for forecast in plan.forecasts), ""]
    text += ["Assumptions of both estimates:", "", *(f"- {line}" for line in plan.assumptions)]
    Console(width=140).print(Markdown("\n".join(text)))
    line = f"`foldstream plan JOB.toml --source-bytes 1TB --cores {CORES} --price {PRICE:.2f}`, 5 folds, 5 epochs;"
    write_section("plan", [f"{line} `make bench-plan` on {machine()}.", "", *text])


if __name__ == "__main__":
    main()
