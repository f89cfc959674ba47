"""Predicting new rows by all folds together, and the out-of-fold predictions as a table."""

import csv
import io
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from ...pipeline.csv.row_batch import ABSENT
from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.predictions.oof_table import WRITERS, write_table
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.claim import SPEC
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import RowError, UsageError, check_choice, disk_in_words
from ...storage.files import remove_tree, whole_file
from ...storage.format import MANIFEST, WORK, Schema, keys_of
from ...storage.object_path import AnyPath, ObjectPath, locate
from ...storage.tasks import Progress
from ...training.model.ensemble import check_ensemble
from ...training.model.prediction import predict_rows
from ...training.run import RunJob, load_job
from ..dask.executor import dask_executor
from ..listener import SILENT, Listener
from ..runs.run import read_run
from .conversion import convert_request


def predict(
    run: str | Path,
    source: str | Path,
    out: str | Path,
    *,
    columns: Sequence[str] | None = None,
    id: str | None = None,
    ensemble: str = "mean",
    listener: Listener = SILENT,
    client: Client | None = None,
) -> int:
    """Predict a dataset, a CSV file with the run's feature columns, or images, by all folds; write a CSV.

    `ensemble` says how the folds' predictions become one: mean, median, vote, or weighted by their held-out losses; or
    refit, for the model of a run with `refit` that was trained on all rows.
    The CSV has the row's id (the value of the `id` column, or of the one that names the training rows if it is there,
    or its number counted from 1) and the most probable class, or the value of each label. `columns` are its names: by
    default ImageId and Label, or
    ImageId and the labels where there are several. Of images it has each one's path, its class and the probability
    of that, or its values. Returns the rows written.
    """
    folder, _ = read_run(locate(run))
    job = load_job(folder)
    usual = default_columns(job.schema)
    names = tuple(columns or usual)
    if len(names) != len(usual):
        raise UsageError(f"--columns {','.join(names)}: name {len(usual)} columns, as in {','.join(usual)}")
    check_ensemble(ensemble, bool(job.schema.classes), job.config.refit)
    target = new_file(out)
    if id and job.schema.image:
        raise UsageError("--id names a column, and images have none; their paths name them")
    with disk_in_words(target), _source_dataset(job, source, target, id, listener, client) as dataset:
        check_same_features(job.schema, dataset.schema, source)
        predicted = predict_rows(job, folder, dataset, ensemble)
        return write_predictions(job.schema, predicted, dataset.rows, target, names, listener.progress)


def write_oof(run: str | Path, out: str | Path, *, listener: Listener = SILENT) -> int:
    """Write the out-of-fold predictions of a complete run as a table: OUT.csv or OUT.parquet.

    A row of it has the row's name, its label, how many models have predicted it without having seen it, and their
    mean: the class and each class's probability, or each label's value. Returns the rows written.
    """
    folder, _ = read_run(locate(run))
    target = new_file(out)
    check_choice("the ending of OUT", Path(str(target)).suffix, tuple(WRITERS))
    predictions = open_arrays(folder.oof, "predictions")
    with disk_in_words(target):
        return write_table(load_job(folder).open_data(), predictions, target, listener.progress)


def new_file(out: str | Path) -> AnyPath:
    target = locate(out)
    if isinstance(target, Path) and target.is_dir():
        raise UsageError(f"{out} is a folder; name a file in it")
    return target


def default_columns(schema: Schema) -> tuple[str, ...]:
    """The names of a CSV of predictions."""
    if schema.image:
        return ("path", *schema.labels, "probability") if schema.classes else ("path", *schema.labels)
    return ("ImageId", *schema.labels) if len(schema.labels) > 1 else ("ImageId", "Label")


@contextmanager
def _source_dataset(
    job: RunJob, source: str | Path, target: AnyPath, id: str | None, listener: Listener, client: Client | None
) -> Iterator[Dataset]:
    """The source if it is a dataset, else its conversion for as long as it is needed, beside the target."""
    place = locate(source)
    if (place / MANIFEST).exists() or (place / WORK / SPEC).exists():
        if id:
            raise UsageError(f"--id names a column of a CSV file, and {source} is a dataset, which has its rows' names")
        yield open_dataset(place)
        return
    scratch = _scratch(target)
    try:
        if form := job.schema.image:
            images = ImageRequest((str(place),), form, labelled=False, shuffle=None)
            with disk_in_words(scratch), dask_executor(listener, client) as executor:
                yield write_images(images, scratch / "source.zarr", executor, listener.progress)
        else:
            request = ConvertRequest(find_sources([str(source)]), id=id, like=job.schema)
            yield _convert_source(request, scratch / "source.zarr", job, listener, client)
    finally:
        remove_tree(scratch)


def _convert_source(
    request: ConvertRequest, out: AnyPath, job: RunJob, listener: Listener, client: Client | None
) -> Dataset:
    """Convert what is to be predicted. Raises RowError with a remedy of which `predict` has no option itself."""
    try:
        return convert_request(request, out, False, listener, client)
    except RowError as error:
        convert = f"«foldstream convert csv FILE OUT.zarr --like {job.dataset}»"
        remedy = f"mend the row, or use {convert}, which has options for such rows, and predict OUT.zarr"
        if error.reason == ABSENT:
            remedy = "fill it, or convert the training data with --missing mean, which fills such, and train again"
        raise RowError(error.source, error.line, error.column, error.reason, remedy, error.unit) from None


def _scratch(target: AnyPath) -> AnyPath:
    """A new place beside a file that is to be written."""
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    return ObjectPath(target.bucket, f"{target.key}.{uuid.uuid4().hex}")


def check_same_features(expected: Schema, found: Schema, source: str | Path) -> None:
    """Raise UsageError unless a dataset has the columns and the shape that a run was trained on."""
    kinds = [(one.features, one.sample_shape, one.categories, one.dates) for one in (expected, found)]
    if kinds[0] != kinds[1]:
        missing = [name for name in expected.features if name not in found.features]
        told = f"samples of shape {found.sample_shape} where the run has {expected.sample_shape}"
        if missing:
            told = f"it lacks {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        elif expected.features != found.features:
            told = "they are others, or in another order"
        elif expected.sample_shape == found.sample_shape:
            told = "its categories or dates became other numbers"
        raise UsageError(
            f"{source} does not have the run's columns: {told}; give predict the source itself, or convert that with "
            "--like and the dataset that the run was trained on"
        )


def write_predictions(
    schema: Schema,
    predicted: Iterable[tuple[dict[str, np.ndarray], np.ndarray]],
    rows: int,
    target: AnyPath,
    columns: Sequence[str],
    progress: Progress,
) -> int:
    """Write the predictions of all rows, as `predict_rows` gives them, as a CSV, atomically."""
    done = 0
    with whole_file(target) as file:
        file.write(to_csv([columns]))
        for arrays, predictions in predicted:
            file.write(to_csv(zip(row_names(arrays), *decide(schema, predictions), strict=True)))
            done += len(predictions)
            progress("predict", done, rows, "rows")
    return done


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as lines of CSV."""
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def row_names(arrays: dict[str, np.ndarray]) -> list[Any]:
    """What the first column calls the rows: the user's key, or the row's number from 1."""
    return keys_of(arrays["key"]) if "key" in arrays else list(arrays["id"] + 1)


def decide(schema: Schema, predictions: np.ndarray) -> list[list[Any]]:
    """For each label the rows' values, or for the one that has classes the name of the most probable one; of images
    with its probability."""
    if schema.classes:
        names = [schema.classes[code] for code in predictions.argmax(axis=1)]
        return [names, [f"{most:.4f}" for most in predictions.max(axis=1)]] if schema.image else [names]
    return [list(values) for values in predictions.T]
