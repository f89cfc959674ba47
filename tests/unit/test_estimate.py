"""The arithmetic of estimates, against numbers worked out by hand."""

import pytest
from foldstream.cluster.planning.estimate import (
    DASK_BYTES,
    TEXT_BYTES,
    TRAINING_BYTES,
    ConversionEstimate,
    ConversionSample,
    DatasetEstimate,
    Forecast,
    Passes,
    TrainingEstimate,
    epoch_passes,
    estimate_data,
    forecast_times,
)
from foldstream.cluster.planning.text import assumptions, forecast_row, time_text, training_facts
from foldstream.storage.format.layout import Layout
from foldstream.storage.machine import size_text
from foldstream.training.splits.split import Split

SAMPLE = ConversionSample(
    source_bytes=1_000, rows=20, stored_bytes=300, seconds=0.5, unpack_seconds=0.1, packed_bytes=400
)
TRAINING = TrainingEstimate(
    rows=1_000,
    epochs=3,
    passes=Passes(5, trained=4.0, scored=1.0),
    parameters=100,
    workers=2,
    batch=32,
    at_once=5,
    reads=1,
    stream_bytes=10_000,
    train_seconds=0.006,
    read_seconds=0.001,
)


def test_a_dataset_is_like_its_sample() -> None:
    data = estimate_data(SAMPLE, 1_000_000_000, x_bytes=1 << 20, row_bytes=(1 << 20) + 9)
    assert data == DatasetEstimate(Layout(20_000_000, block_rows=2, shard_blocks=32), (1 << 20) + 9, 300_000_000)
    assert data.dask_worker_bytes == DASK_BYTES + TEXT_BYTES + 64 * ((1 << 20) + 9)


def test_a_conversion_takes_as_many_rounds_as_its_shards_and_its_sources() -> None:
    conversion = ConversionEstimate(SAMPLE, source_bytes=100_000, sources=3, shards=8)
    assert conversion.scratch_bytes == 40_000
    assert conversion.seconds_on(1) == pytest.approx(50 + 10)
    assert conversion.seconds_on(4) == pytest.approx(50 * 2 / 8 + 10 / 3)
    assert conversion.seconds_on(5) == pytest.approx(conversion.seconds_on(4))
    assert conversion.seconds_on(1000) == pytest.approx(50 / 8 + 10 / 3)


@pytest.mark.parametrize(
    ("split", "refit", "candidates", "passes"),
    [
        (Split(kind="kfold", folds=5), False, 1, Passes(5, 4.0, 1.0)),
        (Split(kind="kfold", folds=5), True, 2, Passes(12, 10.0, 2.0)),
        (Split(kind="kfold", folds=4, repeats=3), False, 1, Passes(12, 9.0, 3.0)),
        (Split(kind="kfold", folds=2, holdout=0.5), True, 1, Passes(3, 1.0, 0.5)),
        (Split(kind="kfold", folds=1, holdout=0.25), False, 1, Passes(1, 0.75, 0.25)),
    ],
    ids=["folds", "refit and a grid", "repeats", "holdout", "one fold"],
)
def test_passes_over_the_rows_add_up(split: Split, refit: bool, candidates: int, passes: Passes) -> None:
    assert epoch_passes(split, refit, candidates) == passes


def test_training_takes_as_long_as_its_bottleneck() -> None:
    assert TRAINING.computing == pytest.approx(1_000 * 3 * (4 + 1 / 3) * 0.006)  # 78 s
    assert TRAINING.reading == pytest.approx(1_000 * 3 * 2 * 0.001)
    assert TRAINING.bound == "computing"
    assert TRAINING.seconds_on(4) == pytest.approx(19.5)
    slow = TrainingEstimate(**{**vars(TRAINING), "reads": 5, "read_seconds": 0.01})
    assert slow.bound == "reading"
    assert slow.seconds_on(4) == pytest.approx(1_000 * 3 * 6 * 0.01 / 4)


def test_memory_and_disk_of_training_add_up() -> None:
    assert TRAINING.worker_bytes == TRAINING_BYTES + 10_000 + 5 * 100 * 20
    assert TRAINING.bytes_left(outputs=10, split=Split(), keep=2) == 5 * 100 * (4 + 24) + 1_000 * (1 + 10 * 4 * 2)


def test_nodes_share_the_work_and_cost_by_the_hour() -> None:
    conversion = ConversionEstimate(SAMPLE, source_bytes=7_200_000, sources=1_000, shards=1_000)
    one, two = forecast_times((1, 2), 10, 5, conversion, TRAINING, price=3.0)
    assert [one.conversion, one.training] == pytest.approx([432.0, 15.6])
    assert [two.conversion, two.training] == pytest.approx([216.0, 7.8])
    assert one.cost == two.cost == pytest.approx(3 * 447.6 / 3600)
    assert forecast_times((1,), 10, 5, None, None, None) == [Forecast(1, 0.0, 0.0)]
    assert forecast_row(Forecast(16, 5_400, 90, 2.0)) == ["16", "1.5 h", "1.5 min", "1.5 h", "48.80"]
    assert forecast_row(Forecast(1, 5, 0))[-1] == ""


def test_the_required_storage_throughput_is_shown() -> None:
    facts = dict(training_facts(TRAINING, DatasetEstimate(Layout(1_000, 10, 10), 100, 50_000), trainers=1))
    assert facts["from storage"] == "300 kB in all epochs, 3.85 kB/s per node"
    assert facts["training"].startswith("167 rows/s")


def test_assumptions_are_those_of_the_job() -> None:
    whole = ConversionEstimate(ConversionSample(1_000, 20, 300, 0.5), 1_000, 1, 8)
    lines = assumptions(whole, None, predicts=False)
    assert len(lines) == 2
    lines = assumptions(ConversionEstimate(SAMPLE, 2_000, 1, 8), TRAINING, predicts=True)
    assert "All sources resemble the sample: rows per byte, classes, time to convert a byte." in lines
    assert any(line.startswith("Training is bound by computing") for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (size_text(999), "999 bytes"),
        (size_text(1_500), "1.5 kB"),
        (size_text(999_700), "1 MB"),
        (size_text(2.345e9), "2.35 GB"),
        (size_text(1234.5e12), "1,234.50 TB"),
        (time_text(59.94), "59.9 s"),
        (time_text(90), "1.5 min"),
        (time_text(3600 * 1234), "1,234.0 h"),
    ],
)
def test_sizes_and_times_are_shown_in_their_units(text: str, expected: str) -> None:
    assert text == expected
