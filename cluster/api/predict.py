"""Predict new rows with the models of all folds, and export the out-of-fold predictions as a table."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.predictions.oof_table import WRITERS, name_of_rows, side_values, write_table
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.claim import SPEC
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import RowError, UsageError, check_choice, disk_in_words
from ...storage.format import LEFT_OUT, MANIFEST, WORK, Schema, SideColumn, keys_of
from ...storage.options import Location
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Progress, silent
from ...training.run import RunJob, load_job
from ...training.settings import check_ensemble
from ..dask.executor import job_executor
from ..requests import Keywords, PredictRequest, Session
from ..runs.run import read_run
from .conversion import absolute, convert_request
from .entry import entry


class PredictCall(PredictRequest, Keywords):
    """The keywords of `foldstream.predict`."""


@entry(PredictCall, PredictRequest)
def predict(request: PredictRequest, session: Session) -> int:
    """Predict a dataset, a CSV file with the run's feature columns, or images with the models of all folds.

    The predictions are written to a CSV file. Its first column identifies the row: the value of the `id` column, of
    the column that identifies the training rows if the source has it, or the row number starting at 1. The other
    columns are the most probable class, the probability of each label for multi-label data, or the value of each
    regression target. For images, the first column is the path, and a class is followed by its probability.

    Args:
        run: Folder of a complete run.
        source: Dataset, CSV or Parquet file, or images to predict.
        out: CSV file to write.
        columns: Column names of the CSV file; by default those of the id, or "row" or "path", and of the labels.
        id: Column of the source that identifies the rows.
        table: For images with columns beside them: CSV file of these columns. Its first column names the images.
        on_error: "stop" at the first invalid row or image, or "skip" them: they are not predicted, and are listed in a
            file beside `out`, for example `submission.left_out.csv`. The other rows keep their numbers.
        ensemble: How to combine the folds' predictions: "mean", "median", "vote", "weighted" by their held-out losses,
            or "refit" to use the model that was trained on all rows.

    Returns:
        The number of rows written.

    Raises:
        UsageError: An option does not match the run.
        SourceError: The source cannot be read, or does not have the run's columns.

    Example:
        >>> fs.predict("runs/flowers", "flowers.csv", "predictions.csv")
        150
    """
    return predict_source(request, session).rows


class Predicted(NamedTuple):
    """The number of rows that were predicted, and of those that were skipped."""

    rows: int
    left_out: int


def predict_source(request: PredictRequest, session: Session) -> Predicted:
    """Predict the source of a request; see `predict`."""
    folder, _ = read_run(locate(str(request.run)))
    job = load_job(folder)
    usual = default_columns(job.schema, request.id or name_of_rows(job.schema))
    names = tuple(request.columns or ())
    if names and len(names) != len(usual):
        raise UsageError(f"--columns {','.join(names)}: {len(usual)} names are needed, e.g. {','.join(usual)}")
    check_ensemble(request.ensemble, job.schema.probabilities, job.config.refit)
    target, source, progress = new_file(str(request.out)), str(request.source), session.listener.progress
    if request.id and job.schema.image:
        raise UsageError(f"--id {request.id}: images have no columns; omit --id, their paths identify them")
    listed = target.parent / f"{target.name.removesuffix(target.suffix)}.{LEFT_OUT}"
    with disk_in_words(target), source_dataset(job, request, target, session) as (dataset, left_out):
        check_same_features(job.schema, dataset.schema, source)
        from ...training.model.prediction import predict_rows  # only now: torch takes a second to load

        predicted = predict_rows(job, folder, dataset, request.ensemble)
        beside = [column for column in dataset.schema.beside if column.name == request.id]
        if left_out:
            listed.write(left_out)
            session.listener.announce("skipped", f"{dataset.left_out:,} invalid rows, see {listed}")
        names = names or default_columns(job.schema, request.id or name_of_rows(dataset.schema))
        rows = write_predictions(job.schema, predicted, dataset, target, names, progress, *beside)
        if not left_out:
            listed.remove()  # that of an earlier prediction
        return Predicted(rows, dataset.left_out if left_out else 0)


def write_oof(run: str | Path, out: str | Path, *, progress: Progress = silent) -> int:
    """Write the out-of-fold predictions of a complete run as a table, OUT.csv or OUT.parquet.

    Each row contains the identifier, the label, the number of models that predicted the row without having seen it, and
    the mean of their predictions: the class and the probability of each class, or the probability or value of each
    label. Returns the number of rows written.
    """
    folder, _ = read_run(locate(run))
    target = new_file(out)
    check_choice("the suffix of OUT", target.suffix, tuple(WRITERS))
    predictions = open_arrays(folder.oof, "predictions")
    with disk_in_words(target):
        return write_table(load_job(folder).open_data(), predictions, target, progress)


def new_file(out: str | Path) -> Place:
    """The place of a file to write. Raises UsageError for a folder."""
    target = locate(out)
    if target.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file in it")
    return target


def default_columns(schema: Schema, rows: str) -> tuple[str, ...]:
    """The default column names of the CSV file with predictions: `rows`, what identifies them, and the labels."""
    return (rows, *schema.labels, *(("probability",) if schema.image and schema.classes else ()))


@contextmanager
def source_dataset(
    job: RunJob, request: PredictRequest, target: Place, session: Session
) -> Iterator[tuple[Dataset, bytes]]:
    """The source if it is a dataset, otherwise its conversion, which is kept beside the target only while needed, with
    the list of what was skipped."""
    source, id, place = str(request.source), request.id, locate(str(request.source))
    if (place / MANIFEST).exists() or (place / WORK / SPEC).exists():
        dataset = open_dataset(place)
        if request.table is not None:
            raise UsageError(
                f"--table {request.table}: {source} is a dataset, which has its columns; remove the option"
            )
        if id:
            known = (name_of_rows(dataset.schema), *(column.name for column in dataset.schema.beside))
            check_choice(f"{source}: --id", id, known)
        yield dataset, b""
        return
    table = _table_of(job.schema, request.table)
    scratch = target.new_folder_beside()
    try:
        if form := job.schema.image:
            images = ImageRequest(
                (str(place),),
                form,
                table,
                labelled=False,
                on_error=request.on_error,
                shuffle=None,
                like=job.schema,
            )
            with disk_in_words(scratch), job_executor(session.listener, session.client) as executor:
                warn = partial(session.listener.announce, "warning")
                dataset = write_images(images, scratch / "source.zarr", executor, session.listener.progress, warn=warn)
        else:
            sources = find_sources([source], job.schema.features)
            tables = ConvertRequest(sources, id=id, like=job.schema, on_error=request.on_error)
            dataset = _convert_source(tables, scratch / "source.zarr", session)
        yield dataset, (dataset.place / LEFT_OUT).read_bytes() if dataset.left_out else b""
    finally:
        scratch.remove_tree()


def _table_of(schema: Schema, table: Location | None) -> str | None:
    """The CSV file of the columns beside images. Raises UsageError if it is needed, and if models take no columns."""
    if schema.table and table is None:
        raise UsageError(
            f"--table: the run's models take columns beside the images ({', '.join(schema.table.features)}); give a "
            "CSV file that has them, and whose first column names the images"
        )
    if table is not None and not schema.table:
        raise UsageError(f"--table {table}: the run's models take no columns beside images; remove the option")
    return None if table is None else absolute(str(table))


def _convert_source(request: ConvertRequest, out: Place, session: Session) -> Dataset:
    """Convert the source. Raises RowError with a remedy that does not mention options that `predict` does not have."""
    try:
        return convert_request(request, out, False, session)
    except RowError as error:
        remedy = "fix the row, or skip such rows with --on-error skip"
        place = error.source, error.line, error.column, error.reason, remedy, error.unit
        others = [RowError(one.source, one.line, one.column, one.reason, "", one.unit) for one in error.others]
        raise RowError(*place, others) from None


def check_same_features(expected: Schema, found: Schema, source: str | Path) -> None:
    """Raise UsageError unless a dataset has the columns and the sample shape that a run was trained on."""
    if not expected.table:  # then those of the source do not matter
        found = replace(found, table=None)
    kinds = [(one.features, one.sample_shape, one.categories, one.dates, one.table) for one in (expected, found)]
    if kinds[0] != kinds[1]:
        features = expected.tabular.features
        missing = [name for name in features if name not in found.tabular.features]
        difference = f"its samples have shape {found.sample_shape}, but the run expects {expected.sample_shape}"
        if missing:
            difference = f"it is missing {', '.join(missing[:5])}" + (
                f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            )
        elif features != found.tabular.features:
            difference = "the columns or their order differ"
        elif expected.sample_shape == found.sample_shape:
            difference = "its categories or dates have different codes"
        raise UsageError(
            f"{source} does not have the run's columns: {difference}; predict the source files directly, or convert "
            "them with --like and the dataset that the run was trained on"
        )


def write_predictions(
    schema: Schema,
    predicted: Iterable[tuple[dict[str, np.ndarray], np.ndarray]],
    dataset: Dataset,
    target: Place,
    columns: Sequence[str],
    progress: Progress,
    named: SideColumn | None = None,
) -> int:
    """Write the predictions of all rows of a dataset, as yielded by `predict_rows`, to a CSV file, atomically. Rows are
    identified by a side column or by their key. Returns the number of rows."""
    done = 0
    with target.whole_file() as file:
        file.write(to_csv([columns]))
        for arrays, predictions in predicted:
            names = side_values(named, arrays[named.array]).to_pylist() if named else row_names(dataset, arrays)
            file.write(to_csv(zip(names, *decide(schema, predictions), strict=True)))
            done += len(predictions)
            progress("predict", done, len(dataset), "rows")
    return done


def to_csv(rows: Iterable[Iterable[Any]]) -> bytes:
    """Rows as lines of CSV."""
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


def row_names(dataset: Dataset, arrays: dict[str, np.ndarray]) -> list[Any]:
    """The identifiers in the first column: the user's key, or the row's number in the source from 1."""
    return keys_of(arrays["key"]) if "key" in arrays else list(dataset.source_rows(arrays["id"]) + 1)


def decide(schema: Schema, predictions: np.ndarray) -> list[list[Any]]:
    """The columns of predictions: for classification the name of the most probable class (for images also its
    probability), for multi-label data the probability of each label, for regression the values."""
    if schema.classes:
        names = [schema.classes[code] for code in predictions.argmax(axis=1)]
        return [names, [f"{most:.4f}" for most in predictions.max(axis=1)]] if schema.image else [names]
    digits = 9 if schema.probabilities else 12
    return [[f"{value:.{digits}g}" for value in values] for values in predictions.T]
