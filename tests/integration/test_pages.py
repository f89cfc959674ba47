"""The report and the live pages, in a real browser."""

import random
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import foldstream as fs
import pytest
import requests
from distributed import Client
from foldstream.cluster.ray.auth import token_path
from foldstream.storage.dataset import Dataset
from foldstream.storage.machine import size_text, this_machine
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder
from playwright.sync_api import Browser, expect

from ..browser import chromium, serious_issues, source_data, started_watch, watch_page
from ..chaos.fold_kills import kill, training, wait_for
from ..unit.test_report import complete_run
from ..unit.test_training import make_job

EPOCHS = 12
ARTEFACTS = Path(__file__).parents[2] / "build" / "pages"
GATED = """
import time
from pathlib import Path

from torch import nn

class Gate(nn.Module):
    \"\"\"Lets two epochs pass, and then nothing until the gate is open.\"\"\"

    steps = 0

    def forward(self, x):
        self.steps += self.training
        while self.steps > {steps} and not Path({gate!r}).exists():
            time.sleep(0.01)
        return x

def gated(sample_shape, outputs):
    return nn.Sequential(Gate(), nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, outputs))
"""
OURS = "[data-root-id]"  # in Dask's dashboard
STEPS = 1200 * 4 // 5 // 64  # of an epoch of four of the five folds, in batches of 64

WIDTHS = {"light": 1100, "dark": 400}  # of the screen in pixels, in each colour scheme


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def artefact(name: str) -> Path:
    """Where a screenshot of a page is kept."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    return ARTEFACTS / name


@pytest.fixture(scope="module")
def report(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pages") / "run"
    complete_run(digits, root, model="mlp")
    return root / "report.html"


@pytest.mark.parametrize("scheme", WIDTHS)
def test_the_report_opens_offline_and_can_be_read(scheme: str, report: Path, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": WIDTHS[scheme], "height": 900}, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    told, asked = watch_page(page)
    page.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS[scheme]
    facts = read_json(report.with_suffix(".json"))
    titles = page.locator("h2").all_inner_texts()
    expected = ["Out-of-fold scores (1,200 rows)", "Recipe", "Folds", "Learning curves", "Out-of-fold scores by class"]
    expected += ["Out-of-fold ROC and precision-recall curves", "Out-of-fold rows with the highest loss"]
    assert titles == [*expected, "Training time", "Reproduce this run"]
    assert page.locator("svg").count() == 12  # nine metrics, calibration, ROC, precision-recall
    assert page.locator(".scores strong").first.inner_text() == f"{facts['out_of_fold']['scores']['loss']:.4f}"
    images = page.locator(".images img")
    assert images.count() == 100
    assert images.evaluate_all("all => all.every(one => one.naturalWidth == 112)")
    assert [image.is_visible() for image in images.all()] == [True] * 10 + [False] * 90
    page.get_by_text("90 more rows").click()
    expect(images.last).to_be_visible()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == facts["command"]
    assert page.locator("code").first.inner_text() == facts["command"]
    assert serious_issues(page) == []
    assert told == []
    page.screenshot(path=artefact(f"report-{scheme}.png"), full_page=True)
    page.close()


SLOW = """
import time
from pathlib import Path

from torch import nn

class Slow(nn.Module):
    \"\"\"Takes its time for some steps of the first epoch, and then waits until the gate is open.\"\"\"

    steps = 0

    def forward(self, x):
        self.steps += self.training
        while self.training and not Path({gate!r}).exists():
            time.sleep(0.3)
            if self.steps < 8:
                break
        return x

def slow(sample_shape, outputs):
    return nn.Sequential(Slow(), nn.Flatten(), nn.Linear(784, outputs))
"""


def test_several_runs_are_compared_and_one_is_followed_to_its_report(
    digits: Dataset, report: Path, browser: Browser, tmp_path: Path
) -> None:
    gate, run = tmp_path / "open", tmp_path / "runs" / "new"
    (tmp_path / "own.py").write_text(SLOW.format(gate=str(gate)))
    shutil.copytree(report.parent, tmp_path / "runs" / "old")
    options = ["--folds", "2", "--epochs", "3", "--batch-size", "64", "--workers", "0"]
    command = [sys.executable, "-m", "foldstream.cli", "train", str(digits.root), str(run), *options]
    with training([*command, "--model", f"{tmp_path}/own.py:slow"], tmp_path / "log") as trained:
        wait_for(trained, RunFolder(locate(run)), 0.1)
        with started_watch(tmp_path / "runs") as address:
            page = browser.new_page(viewport={"width": 400, "height": 900}, color_scheme="dark")
            told, _ = watch_page(page)
            page.goto(address)
            rows = page.locator("tbody tr")
            expect(rows).to_have_count(2)
            assert [row.split()[:2] for row in rows.all_inner_texts()] == [["new", "training"], ["old", "complete"]]
            assert page.evaluate("document.documentElement.scrollWidth") == 400
            assert serious_issues(page) == []
            page.screenshot(path=artefact("runs.png"), full_page=True)
            page.get_by_role("link", name="new").click()
            expect(page.locator(".waiting")).to_contain_text("The first epoch is")
            expect(page.locator(".about")).to_contain_text("own.py:slow")
            expect(page.locator(".about")).to_contain_text(str(digits.root))
            expect(page.get_by_text(re.compile(r"Training process of folds 0 and 1: \d+ MB of memory"))).to_be_visible()
            name = "training loss within epochs, training, fold 0"
            page.wait_for_function(f"Bokeh.documents[0]?.get_model_by_name('{name}')?.data.value.length > 0")
            assert 0 < source_data(page, name)["epoch"][0] < 1
            assert serious_issues(page) == []
            page.screenshot(path=artefact("run-first-epoch.png"), full_page=True)
            gate.touch()
            expect(page.locator(".state")).to_have_text("complete: 2 of 2 folds done", timeout=120_000)
            scores = read_json(run / "summary.json")["out_of_fold"]
            accuracy = page.locator(".scores div").filter(has=page.get_by_text("accuracy", exact=True))
            assert accuracy.locator("strong").inner_text() == f"{scores['accuracy']:.4f}"
            link = page.get_by_role("link", name="Open the report").get_attribute("href")
            page.goto(urljoin(page.url, link))  # a click may be lost while the page is redrawn
            expect(page.locator(".place")).to_have_text(str(run))
            assert page.locator("code").first.inner_text() == read_json(run / "report.json")["command"]
            port = address.rpartition(":")[2]
            assert (
                requests.get(f"{address}/report?run=new", headers={"Host": f"evil:{port}"}, timeout=9).status_code
                == 403
            )
            assert requests.get(f"{address}/report?run=other", timeout=9).status_code == 404
            assert [line for line in told if "rror" in line] == []
            page.close()
        assert trained.wait() == 0


def test_the_page_of_a_run_that_has_not_started_says_so(digits: Dataset, browser: Browser, tmp_path: Path) -> None:
    make_job(digits, tmp_path / "run")
    with started_watch(tmp_path / "run") as address:
        page = browser.new_page()
        page.goto(address)
        expect(page.locator(".state")).to_have_text("waiting: 0 of 3 folds done")
        expect(page.locator(".waiting")).to_contain_text("No fold is training yet")
        page.wait_for_function("Bokeh.documents[0]?.is_idle")
        assert page.locator("canvas").filter(visible=True).count() == 0
        assert serious_issues(page) == []
        page.screenshot(path=artefact("run-waiting.png"), full_page=True)
        page.close()


def test_dasks_page_shows_a_conversion_as_it_goes(
    digits_csv: Path, dask_client: Client, browser: Browser, tmp_path: Path
) -> None:
    header, *rows = digits_csv.read_text().splitlines(keepends=True)
    (tmp_path / "many.csv").write_text(header + "".join(rows * 200))
    page = browser.new_page()
    told, _ = watch_page(page)
    page.goto(dask_client.dashboard_link.replace("/status", "/foldstream"))
    assert "Foldstream" in page.locator(".navbar a").all_inner_texts()
    seen: list[list[str]] = []
    with ThreadPoolExecutor(1) as threads:
        converting = threads.submit(
            fs.convert_csv, tmp_path / "many.csv", tmp_path / "many.zarr", label="label", client=dask_client
        )
        numbers = page.locator(".scores strong")
        while not seen or seen[-1] != ["240,000", "8"]:
            page.wait_for_timeout(100)
            is_it = page.locator("h1").inner_text() == str(tmp_path / "many.zarr")  # before the numbers, which follow
            shown = numbers.all_inner_texts()
            if is_it and len(shown) == 6 and shown[:2] not in seen:
                seen.append(shown[:2])
        dataset = converting.result()
    assert len(seen) > 1, "the numbers never changed"
    assert seen == sorted(seen, key=lambda one: int(one[0].replace(",", "")))
    stored = sum(sum(entry.lengths.values()) for entry in dataset.manifest.shards)
    source = (tmp_path / "many.csv").stat().st_size
    assert numbers.all_inner_texts()[2:5] == [size_text(source), size_text(stored), "0"]
    rates = source_data(page, "rates")
    assert len(rates["rows"]) == dataset.layout.shards
    assert source_data(page, "memory")["limit"] == [this_machine().memory / 1e9]
    expect(page.locator(".scores")).to_contain_text("of 8 done")
    expect(page.locator(".scores")).not_to_contain_text("running")
    expect(numbers.last).to_have_text("done")
    assert serious_issues(page, OURS) == []
    page.screenshot(path=artefact("conversion.png"), full_page=True)
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth == 400")
    assert [line for line in told if "rror" in line] == []
    page.close()


def test_dasks_page_shows_the_run_that_is_trained_beside_it(
    digits: Dataset, dask_client: Client, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page()
    told, _ = watch_page(page)
    page.goto(dask_client.dashboard_link.replace("/status", "/foldstream-run"))
    assert "Foldstream-Run" in page.locator(".navbar a").all_inner_texts()
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 2, "batch_size": 64}
    with ThreadPoolExecutor(1) as threads:
        trained = threads.submit(fs.train, digits.root, tmp_path / "run", client=dask_client, **options)
        expect(page.locator(".place")).to_have_text(str(tmp_path / "run"), timeout=60_000)
        trained.result()
    expect(page.locator(".state")).to_have_text("complete: 2 of 2 folds done", timeout=120_000)
    for fold in range(2):
        history = read_json(RunFolder(locate(tmp_path / "run")).fold(fold).done)["history"]
        assert source_data(page, f"loss, held out, fold {fold}")["value"] == [epoch["loss"] for epoch in history]
    assert serious_issues(page, OURS) == []
    page.screenshot(path=artefact("run-in-dask.png"), full_page=True)
    assert [line for line in told if "rror" in line] == []
    page.close()


def runs_in_rays_dashboard(log: str) -> dict[str, dict[str, Any]]:
    """Ray Train's runs, by their names, as the dashboard has them whose address a command has told."""
    address = re.search(r"Ray dashboard: (http://\S+)", log)
    assert address, log
    token = {"Authorization": f"Bearer {token_path().read_text()}"}
    told = requests.get(f"{address[1]}/api/train/v2/runs/v1", headers=token, timeout=30).json()
    return {run["name"]: run for run in told["train_runs"]}


@pytest.mark.long
def test_a_runs_page_shows_its_folds_as_they_are_trained(digits: Dataset, browser: Browser, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    (tmp_path / "own.py").write_text(GATED.format(steps=2 * STEPS, gate=str(gate)))
    options = ["--folds", "5", "--epochs", str(EPOCHS), "--batch-size", "64", "--workers", "1"]
    command = [sys.executable, "-m", "foldstream.cli", "train", str(digits.root), str(tmp_path / "run"), *options]
    with training(
        [*command, "--fold-mode", "runs", "--model", f"{tmp_path}/own.py:gated"], tmp_path / "log"
    ) as trained:
        wait_for(trained, RunFolder(locate(tmp_path / "run")), 0.1)
        with started_watch(tmp_path / "run") as address:
            page = browser.new_page()
            told, _ = watch_page(page)
            page.goto(address)
            states = page.locator("tbody tr td:nth-child(2)")
            page.wait_for_function(
                "Bokeh.documents[0]?.get_model_by_name('loss, held out, fold 0')?.data.value.length > 0"
            )
            assert {"running", "waiting"} <= set(states.all_inner_texts())
            train_runs = runs_in_rays_dashboard((tmp_path / "log").read_text())
            assert {run["status"] for run in train_runs.values()} == {"RUNNING"}
            assert {"fold-0", "fold-1"} & train_runs.keys()
            before = len(source_data(page, "loss, held out, fold 0")["value"])
            kill(trained, "driver", random.Random(0))
            gate.touch()
            expect(states.filter(has_text="attempt 2").first).to_be_visible(timeout=60_000)
            assert page.locator(".events .failed").count() == 1
            page.screenshot(path=artefact("run-under-way.png"), full_page=True)
            expect(page.locator(".state")).to_have_text("complete: 5 of 5 folds done", timeout=240_000)
            assert trained.wait() == 0
            assert len(source_data(page, "loss, held out, fold 0")["value"]) > before
            for fold in range(5):
                history = read_json(tmp_path / "run" / "folds" / str(fold) / "done.json")["history"]
                for name, chart in {
                    "loss": "loss, held out",
                    "train_loss": "loss, training",
                    "accuracy": "accuracy, held out",
                }.items():
                    shown = source_data(page, f"{chart}, fold {fold}")
                    assert shown == {"epoch": list(range(1, EPOCHS + 1)), "value": [epoch[name] for epoch in history]}
            timeline = source_data(page, "timeline")
            ended = [state for fold, state in zip(timeline["fold"], timeline["state"], strict=True) if state == "done"]
            assert len(ended) == 5
            assert timeline["state"].count("failed") == 1
            assert [line for line in told if "rror" in line] == []
            page.close()
            for scheme, width in WIDTHS.items():
                page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
                page.goto(address)
                expect(page.locator(".state")).to_have_text("complete: 5 of 5 folds done")
                page.wait_for_function("Bokeh.documents[0]?.is_idle")
                assert page.evaluate("document.documentElement.scrollWidth") == width
                assert serious_issues(page) == []
                page.screenshot(path=artefact(f"run-{scheme}.png"), full_page=True)
                page.close()
