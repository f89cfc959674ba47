"""An estimate is made from a sample of the sources, with nothing started and nothing left behind."""

import bz2
import gzip
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from foldstream.cluster.api import on_ray
from foldstream.cluster.dask import executor
from foldstream.cluster.planning import job as planning
from foldstream.cluster.planning.job import JobEstimate, estimate_job
from foldstream.pipeline import sample as sampling
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.sample import sample_images, sample_texts
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.verify import find_damage
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.errors import ForeignError, SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.model.row_costs import RowCosts
from PIL import Image
from pyarrow import csv, parquet

from ..conftest import convert_file, table

TRAIN = "[train]\nrun = 'run'\nmodel = 'mlp'\nbatch_size = 64\nepochs = 2\n"
CSV = "[convert.csv]\nsources = ['rows.csv']\nout = 'data.zarr'\nlabel = 'label'\n"


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise AssertionError("an estimate starts no cluster")

    monkeypatch.setattr(executor.LocalExecutor, "dask", start)
    monkeypatch.setattr(on_ray, "ray_cluster", start)


@pytest.fixture
def quick_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial whose figures are known."""
    monkeypatch.setattr(planning, "measure_row_costs", lambda job, rank: RowCosts(reading=1e-6, training=1e-3))


def write_job(folder: Path, text: str) -> Path:
    job = folder / "job.toml"
    job.write_text(text)
    return job


def facts_of(estimate: JobEstimate) -> dict[str, str]:
    return dict(estimate.facts)


def test_a_small_job_is_estimated_exactly_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    (tmp_path / "rows.csv").write_text(table(3_000))
    job = write_job(tmp_path, CSV + TRAIN)
    estimate = estimate_job(job, (1, 4), cores=8, price=2.0)
    facts = facts_of(estimate)
    assert facts["rows"] == "3,000"
    assert facts["models"].startswith("5 of ")
    assert [forecast.nodes for forecast in estimate.forecasts] == [1, 4]
    one, four = estimate.forecasts
    assert one.training == pytest.approx(4 * four.training)
    assert one.conversion == four.conversion > 0  # eight shards, eight cores
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "rows.csv", "work"]
    assert not list((tmp_path / "work").glob("foldstream*"))


def test_training_hours_follow_from_the_trial(tmp_path: Path, quick_trial: None) -> None:
    (tmp_path / "rows.csv").write_text(table(3_000))
    estimate = estimate_job(write_job(tmp_path, CSV + TRAIN + "folds = 3\n"), (2,), cores=5)
    assert estimate.forecasts[0].training == pytest.approx(3_000 * 2 * (2 + 1 / 3) * 1e-3 / 10)
    assert estimate.forecasts[0].cost is None


def test_an_existing_dataset_is_counted_and_not_converted(tmp_path: Path, quick_trial: None) -> None:
    (tmp_path / "rows.csv").write_text(table(3_000))
    dataset = convert_file(tmp_path / "rows.csv", tmp_path / "data.zarr", "label")
    (tmp_path / "rows.csv").unlink()
    for text in (CSV + TRAIN, f"{TRAIN}dataset = 'data.zarr'\n"):
        estimate = estimate_job(write_job(tmp_path, text), (1,))
        facts = facts_of(estimate)
        assert facts["rows"] == "3,000"
        assert facts["shards"].startswith(f"{dataset.layout.shards} of ")
        assert "sources" not in facts
        assert estimate.forecasts[0].conversion == 0


def test_sources_may_be_a_sample_of_all_sources(tmp_path: Path, quick_trial: None) -> None:
    (tmp_path / "rows.csv").write_text(table(3_000))
    size = (tmp_path / "rows.csv").stat().st_size
    estimate = estimate_job(write_job(tmp_path, CSV + TRAIN), (1,), source_bytes=1_000_000 * size)
    assert facts_of(estimate)["rows"] == "3,000,000,000"
    assert "1,000,000 sources" in facts_of(estimate)["sources"]
    assert estimate.assumptions[0].startswith("All sources resemble the sample")


def zstd(text: bytes) -> bytes:
    return bytes(pa.compress(text, "zstd", asbytes=True))


def as_parquet(text: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(csv.read_csv(pa.BufferReader(text)), sink, compression="none", use_dictionary=False)
    return bytes(sink.getvalue())


WRITERS: dict[str, Callable[[bytes], bytes]] = {
    ".csv": bytes,
    ".csv.gz": gzip.compress,
    ".csv.bz2": bz2.compress,
    ".csv.xz": lzma.compress,
    ".csv.zst": zstd,
    ".parquet": as_parquet,
}


@pytest.fixture(scope="module")
def text() -> bytes:
    return table(60_000).encode()


@pytest.mark.parametrize("suffix", WRITERS)
def test_the_rows_of_large_sources_are_estimated(
    suffix: str, text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "TEXT_BYTES", 400_000)
    monkeypatch.setattr(sampling, "PACKED_BYTES", 800_000)
    for number in range(6):
        (tmp_path / f"rows{number}{suffix}").write_bytes(WRITERS[suffix](text))
    job = CSV.replace("['rows.csv']", f"['*{suffix}']").replace("data.zarr", "out/data.zarr")
    facts = facts_of(estimate_job(write_job(tmp_path, job), (1,)))
    rows, sampled = (int(facts[name].split()[0].replace(",", "")) for name in ("rows", "sample"))
    assert sampled <= 180_000  # half of them: bzip2 packs more rows together than a sample has
    assert rows == pytest.approx(360_000, rel=0.03 if suffix in (".csv", ".parquet") else 0.1)
    print(rows, sampled)
    assert ("during conversion" in facts["disk"]) == (suffix not in (".csv", ".parquet"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_sample_is_cut_between_rows(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TEXT_BYTES", 100_000)
    rows = [f'{number},"a line\nand ""another"" of it, naïve",{number % 3}' for number in range(20_000)]
    path = tmp_path / "rows.csv"
    path.write_bytes("\n".join(["number,words,label", *rows]).encode(encoding))
    (folder := tmp_path / "copies").mkdir()
    sample = sample_texts(find_sources([str(path)]), CsvOptions(), folder)
    text = Path(sample.places[0]).read_bytes().decode(encoding)
    assert 1_000 < text.count("another") < 4_000
    assert text == "\n".join(["number,words,label", *rows])[: len(text)]
    assert text.endswith(("0\n", "1\n", "2\n"))
    assert sample.origins == {sample.places[0]: str(path)}
    assert bool(sample.packed) == (encoding == "utf-16")


def test_rows_longer_than_a_sample_make_it_larger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TEXT_BYTES", 1_000)
    path = tmp_path / "rows.csv"
    path.write_text(table(200, columns=500))
    (folder := tmp_path / "copies").mkdir()
    sample = sample_texts(find_sources([str(path)]), CsvOptions(), folder)
    assert 1_000 < sample.bytes < path.stat().st_size


def write_images(folder: Path, count: int) -> None:
    draws = np.random.default_rng(0)
    for number in range(count):
        target = folder / f"class{number % 3}" / f"{number:03d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (12, 16, 3), np.uint8)).save(target)


IMAGES = "[convert.images]\nsources = ['images']\nout = 'data.zarr'\nsize = 8\n"


@pytest.mark.parametrize("archived", [False, True], ids=["folders", "zip"])
def test_images_are_sampled_evenly(archived: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "IMAGES", 20)
    write_images(tmp_path / "images", 300)
    text = IMAGES
    if archived:
        text = IMAGES.replace("'images'", "'images.zip'")
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in sorted((tmp_path / "images").rglob("*.png")):
                archive.write(path, path.relative_to(tmp_path / "images"))
    facts = facts_of(estimate_job(write_job(tmp_path, text), (1,)))
    rows = int(facts["rows"].replace(",", ""))
    assert rows == pytest.approx(300, rel=0.02)
    assert facts["sample"].startswith("20 rows")


def test_images_keep_their_classes_and_stay_in_their_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 9)
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(tmp_path / "images" / "class0" / "000.png", "class7/one.png")
        archive.write(tmp_path / "images" / "class0" / "000.png", "../two.png")
    (folder := tmp_path / "copies").mkdir()
    sample = sample_images([str(tmp_path / "images"), str(tmp_path / "more.zip")], folder)
    copies = {str(path.relative_to(folder)) for path in folder.rglob("*.png")}
    assert {copy.split("/")[1] for copy in copies} == {"class0", "class1", "class2", "class7"}
    assert len(copies) == 10
    assert not (folder / "two.png").exists()
    assert sample.total == sample.bytes


def test_too_many_images_to_list_need_their_total_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_trial: None
) -> None:
    monkeypatch.setattr(sampling, "MOST_LISTED", 50)
    write_images(tmp_path / "images", 60)
    with pytest.raises(UsageError, match="more than 50 images, too many to list; give their total size"):
        estimate_job(write_job(tmp_path, IMAGES), (1,))
    facts = facts_of(estimate_job(write_job(tmp_path, IMAGES + TRAIN), (1,), source_bytes="1TB"))
    assert facts["sources"] == f"1.00 TB in {facts['rows']} sources"


def test_labels_may_name_images_that_are_not_in_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "IMAGES", 20)
    write_images(tmp_path / "images", 300)
    lines = [f"class{number % 3}/{number:03d}.png,{number % 2}" for number in range(300)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *lines]))
    estimate = estimate_job(write_job(tmp_path, IMAGES + "labels = 'labels.csv'\n"), (1,))
    assert int(facts_of(estimate)["rows"]) == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (CSV, SourceError, r"rows\.csv cannot be read"),
        (IMAGES, SourceError, r"images does not exist"),
        (f"{TRAIN}dataset = 'none.zarr'\n", ForeignError, r"none\.zarr does not exist"),
        ("[predict]\nrun = 'run'\nsource = 'a'\nout = 'b'\n", UsageError, "there is nothing to estimate"),
    ],
    ids=["no file", "no folder", "no dataset", "nothing"],
)
def test_what_cannot_run_is_refused(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        estimate_job(write_job(tmp_path, text), (1,))


def test_invalid_options_are_refused_as_by_run(tmp_path: Path, quick_trial: None) -> None:
    (tmp_path / "rows.csv").write_text(table(300))
    for more, message in (
        ("folds = 1\n", "--folds 1"),
        ("window = 0\n", "window = 0"),
        ("memory = '1kB'\n", "--memory 1,000"),
        ("settings = {lr = 'fast'}\n", "--set lr"),
    ):
        with pytest.raises(UsageError, match=message):
            estimate_job(write_job(tmp_path, CSV + TRAIN + more), (1,))
    with pytest.raises(UsageError, match="has no sources; remove the option"):
        estimate_job(write_job(tmp_path, f"{TRAIN}dataset = 'data.zarr'\n"), (1,), source_bytes="1TB")


def test_a_sample_is_tried_in_blocks_as_large_as_they_will_be(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(table(300))
    sample = convert_file(tmp_path / "rows.csv", tmp_path / "data.zarr", "label", id="c0")
    tried = planning.reblock(sample, 100, tmp_path / "tried")
    assert (len(tried), tried.layout.block_rows) == (planning.TRIAL_BLOCKS * 100, 100)
    assert find_damage(tried, SerialExecutor(), silent) == []
    names = ("x", "y", "key")
    rows, again = (BlockReader(one, names).read(range(one.layout.blocks)) for one in (sample, tried))
    for name in names:
        assert np.array_equal(again[name][:600], np.concatenate([rows[name]] * 2))


def test_an_invalid_row_is_named_in_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "TEXT_BYTES", 20_000)
    rows = table(3_000).splitlines()
    rows[40] = "1,two"
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    with pytest.raises(SourceError, match=f"^{tmp_path}/rows.csv, line 41"):
        estimate_job(write_job(tmp_path, CSV), (1,))
