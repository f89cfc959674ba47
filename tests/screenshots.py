"""`make screenshots`: pictures of the pages, of the runs that the tutorial describes.

python -m tests.screenshots OUT FOLDER. In FOLDER, whose path is seen in the pictures, the tutorial's commands convert
the digits and train on them. OUT gets each page at 1280 and 400 pixels, light and dark.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

from foldstream.cluster.runs.run import prepare_run
from foldstream.storage.dataset import open_dataset
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import TrainConfig
from foldstream.training.run import RunFolder
from foldstream.training.settings import usual_recipe
from playwright.sync_api import Browser, Page, expect

from .browser import chromium, started_watch

SOURCE = Path(__file__).parents[1] / "examples" / "digits" / "train.csv.gz"
WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
TUTORIAL = ("--model", "digits-cnn", "--folds", "5", "--epochs", "4", "--workers", "0")
OTHER = ("--model", "mlp", "--folds", "5", "--epochs", "4", "--workers", "0")

Ready = Callable[[Page], None]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "foldstream.cli", "--quiet", *arguments]


def take(browser: Browser, address: str, name: str, out: Path, ready: Ready) -> None:
    """Pictures of a page once it is `ready`."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(address)
            ready(page)
            page.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=True)
            print(f"{name}, {width} pixels, {scheme}: {page.evaluate('document.documentElement.scrollWidth')} wide")
            page.close()


def drawn(text: str) -> Ready:
    """Ready if the state of a run contains this text, and all figures are drawn."""

    def ready(page: Page) -> None:
        expect(page.locator(".state")).to_contain_text(text, timeout=120_000)
        page.wait_for_function("Bokeh.documents[0]?.is_idle")
        page.wait_for_timeout(1000)

    return ready


def epochs_done(count: int) -> Ready:
    """Ready if that many epochs of the first fold are shown, and all figures are drawn."""

    def ready(page: Page) -> None:
        shown = f"Bokeh.documents[0]?.get_model_by_name('loss, held out, fold 0')?.data.value.length >= {count}"
        page.wait_for_function(shown, timeout=300_000)
        drawn("folds done")(page)

    return ready


def main(out: Path, folder: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data, runs = folder / "build/tutorial/digits.zarr", folder / "build/tutorial/runs"
    convert = ("convert", "csv", str(SOURCE), str(data), "--label", "label", "--shape", "1,28,28")
    subprocess.run(command(*convert), check=True)
    waiting = folder / "build/tutorial/waiting"
    config = TrainConfig(recipe=usual_recipe("digits-cnn"))
    prepare_run(RunFolder(locate(waiting)), open_dataset(data), config, SerialExecutor(), silent)
    with chromium() as browser:
        with started_watch(waiting) as address:
            take(browser, address, "watch-waiting", out, drawn("waiting"))
        with subprocess.Popen(command("train", str(data), str(runs / "digits-cnn"), *TUTORIAL)) as training:
            while not (runs / "digits-cnn" / "run.json").exists():
                assert training.poll() is None, "the training failed"
                sleep(0.1)
            with started_watch(runs / "digits-cnn") as address:
                take(browser, address, "watch-running", out, epochs_done(2))
            assert training.wait() == 0
        subprocess.run(command("train", str(data), str(runs / "mlp"), *OTHER), check=True)
        with started_watch(runs) as address:
            take(browser, address, "watch-several", out, drawn("2 runs"))
            take(browser, f"{address}?run=digits-cnn", "watch-done", out, drawn("complete"))
        take(browser, (runs / "digits-cnn" / "report.html").as_uri(), "report", out, lambda page: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
