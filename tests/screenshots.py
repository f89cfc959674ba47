"""`make screenshots`: pictures of the README, the documentation, and the pages of the runs that the tutorial describes.

python -m tests.screenshots OUT FOLDER. In FOLDER, whose path is seen in the pictures, the tutorial's commands convert
the digits and train on them. OUT gets each page at 1280 and 400 pixels, light and dark; those that the documentation
shows are copied to docs/images. The documentation must have been built.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep

import foldstream as fs
from foldstream.cluster.dask.local import dask_cluster, page_address
from foldstream.cluster.runs.run import prepare_run
from foldstream.storage.dataset import open_dataset
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import CONVERSION, SerialExecutor, silent
from foldstream.training.config import TrainConfig
from foldstream.training.run import RunFolder
from foldstream.training.settings import usual_recipe
from markdown_it import MarkdownIt
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from .browser import chromium, served, started_watch

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples" / "digits" / "train.csv.gz"
IMAGES = ROOT / "docs" / "images"
DOCS = "", "quickstart/table/", "quickstart/images/", "concepts/", "reference/python/", "guides/model/", "datasets/"
README = """<!doctype html><meta charset=utf-8><meta name=viewport content="width=device-width"><base href="{base}/">
<style>
:root {{ color-scheme: light dark }} body {{ font: 16px/1.5 sans-serif; max-width: 980px; margin: auto; padding: 16px }}
pre, table {{ overflow-x: auto; display: block }} td, th {{ border: 1px solid #8884; padding: 4px 12px }}
pre, code {{ background: #8882 }} pre {{ padding: 16px }} table {{ border-collapse: collapse }}
img {{ max-width: 100% }}
</style>{body}"""
TOP = 1900  # pixels of the report
PATIENCE = 300_000  # milliseconds: the training takes the machine's cores
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
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            ready(page)
            page.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=True)
            print(f"{name}, {width} pixels, {scheme}: {page.evaluate('document.documentElement.scrollWidth')} wide")
            page.close()


def drawn(text: str) -> Ready:
    """Ready if the state of a run contains this text, and all figures are drawn."""

    def ready(page: Page) -> None:
        expect(page.locator(".state")).to_contain_text(text, timeout=PATIENCE)
        page.wait_for_function("Bokeh.documents[0]?.is_idle")
        page.wait_for_timeout(1000)

    return ready


def epochs_done(count: int) -> Ready:
    """Ready if that many epochs of the first fold are shown, and all figures are drawn."""

    def ready(page: Page) -> None:
        shown = f"Bokeh.documents[0]?.get_model_by_name('loss, held out, fold 0')?.data.value.length >= {count}"
        page.wait_for_function(shown)
        drawn("folds done")(page)

    return ready


def at_once(page: Page) -> None:
    """Ready when it is loaded, and nothing is fading in any more."""
    page.wait_for_timeout(600)


def take_documents(browser: Browser, out: Path) -> None:
    """Pictures of the README, about as GitHub shows it, and of pages of the documentation."""
    readme = (out / "readme.html").absolute()
    body = MarkdownIt().enable("table").render((ROOT / "README.md").read_text())
    readme.write_text(README.format(base=ROOT.as_uri(), body=body))
    take(browser, readme.as_uri(), "readme", out, at_once)
    with served(ROOT / "build" / "site") as address:
        for name in DOCS:
            take(browser, f"{address}/{name}", f"docs-{name.strip('/').replace('/', '-') or 'home'}", out, at_once)


def take_conversion(browser: Browser, out: Path, folder: Path) -> None:
    """Pictures of Dask's page after a conversion."""
    with dask_cluster(2) as client:
        fs.convert_csv(SOURCE, folder / "on-dask.zarr", label="label", shape=(1, 28, 28), client=client)
        take(browser, page_address(client, CONVERSION), "conversion", out, lambda page: page.wait_for_timeout(3000))


def main(out: Path, folder: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tutorial = folder / "build" / "tutorial"
    data, run, waiting = tutorial / "digits.zarr", tutorial / "run", tutorial / "next"
    convert = ("convert", "csv", str(SOURCE), str(data), "--label", "label", "--shape", "1,28,28")
    subprocess.run(command(*convert), check=True)
    config = TrainConfig(recipe=usual_recipe("digits-cnn"))
    prepare_run(RunFolder(locate(waiting)), open_dataset(data), config, SerialExecutor(), silent)
    with chromium() as browser:
        take_documents(browser, out)
        take_conversion(browser, out, folder)
        with started_watch(waiting) as address:
            take(browser, address, "watch-waiting", out, drawn("waiting"))
        with subprocess.Popen(command("train", str(data), str(run), *TUTORIAL)) as training:
            while not (run / "run.json").exists():
                assert training.poll() is None, "the training failed"
                sleep(0.1)
            with started_watch(run) as address:
                take(browser, address, "watch-running", out, epochs_done(2))
            assert training.wait() == 0
        subprocess.run(command("train", str(data), str(tutorial / "mlp"), *OTHER), check=True)
        with started_watch(tutorial) as address:
            take(browser, address, "watch-several", out, drawn("3 runs"))
            take(browser, f"{address}?run=run", "watch-done", out, drawn("complete"))
        take(browser, (run / "report.html").absolute().as_uri(), "report", out, at_once)
    keep_for_docs(out)


def keep_for_docs(out: Path) -> None:
    """Copy the pictures of the documentation: a whole page, and the top of the report."""
    shutil.copy(out / "watch-running-1280-light.png", IMAGES / "run-under-way.png")
    with Image.open(out / "report-1280-light.png") as report:
        report.crop((0, 0, report.width, TOP)).save(IMAGES / "report.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
