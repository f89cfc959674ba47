"""Predict new rows with the models of all folds, and export the out-of-fold predictions as a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.predictions.columns import name_of_rows, predicted_columns, side_values
from ...pipeline.predictions.files import ending_of, write_tables
from ...pipeline.predictions.known_labels import SourceScores
from ...pipeline.predictions.oof_table import oof_tables
from ...pipeline.predictions.scores import Scorer
from ...pipeline.predictions.unknown import UnknownCategories
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.claim import SPEC
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import RowError, UsageError, check_choice, disk_in_words
from ...storage.format import LEFT_OUT, MANIFEST, WORK, Schema, keys_of
from ...storage.options import Location
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Progress, silent
from ...training.run import RunJob, load_job
from ...training.settings import check_ensemble, own_metrics, scoring_of
from ..dask.executor import job_executor
from ..requests import Keywords, PredictRequest, Session
from ..runs.run import read_run
from .conversion import absolute, convert_request
from .entry import entry


class PredictCall(PredictRequest, Keywords):
    """The keywords of `foldstream.predict`."""


@entry(PredictCall, PredictRequest)
def predict(request: PredictRequest, session: Session) -> "Predicted":
    """Predict a dataset, a CSV file with the run's feature columns, or images with the models of all folds.

    The predictions are written to a CSV or Parquet file. Its first column identifies the row: the value of the `id`
    column, of the column that identifies the training rows if the source has it, or the row number starting at 1. The
    other columns are the most probable class, the probability of each label for multi-label data, or the value of each
    regression target. For images, the first column is the path, and a class is followed by its probability. With
    `proba`, a class is followed by the probability of every class, in columns named `probability_CLASS`.

    If the source has the label columns, or images lie in the folders of their classes, the predictions are scored by
    the same metrics as the out-of-fold predictions. Rows whose label is missing or new are not scored, nor is the
    dataset that the run was trained on.

    A category that does not occur in the training data is treated as unknown; a warning says how many rows have one.

    Args:
        run: Folder of a complete run.
        source: Dataset, CSV or Parquet file, or images to predict.
        out: File to write. Its ending says the format: `.csv`, `.csv.gz` or `.parquet`.
        proba: Whether to add the probability of each class. Predictions of multi-label data are probabilities in any
            case.
        format: "csv" or "parquet", for a file whose ending does not say the format.
        columns: Names of the columns before those of `proba`; by default those of the id, or "row" or "path", and of
            the labels.
        id: Column of the source that identifies the rows.
        table: For images: table with a column that names them, the columns beside them, and labels to score by.
        on_error: "stop" at the first invalid row or image, or "skip" them: they are not predicted, and are listed in a
            file beside `out`, for example `submission.left_out.csv`. The other rows keep their numbers.
        ensemble: How to combine the folds' predictions: "mean", "median", "vote", "weighted" by their held-out losses,
            or "refit" to use the model that was trained on all rows.

    Returns:
        `rows`, the number of rows written; `left_out`, the number of rows skipped; and `scored`, a dictionary with the
        `rows` that have labels, their `scores` and the 95 % confidence `intervals` of these. It is empty if the source
        has no labels.

    Raises:
        UsageError: An option does not match the run.
        SourceError: The source cannot be read, or does not have the run's columns.

    Example:
        >>> fs.predict("runs/flowers", "flowers.csv", "predictions.parquet", proba=True).rows
        150
    """
    return predict_source(request, session)


class Predicted(NamedTuple):
    """The number of rows that were predicted, and of those that were skipped, and the scores of those with labels."""

    rows: int
    left_out: int
    scored: dict[str, Any]


def predict_source(request: PredictRequest, session: Session) -> Predicted:
    """Predict the source of a request; see `predict`."""
    target, ending = output_of(request)
    listed = (
        target.parent / f"{target.name[: -len(ending)] if target.name.endswith(ending) else target.name}.{LEFT_OUT}"
    )
    with disk_in_words(target), predict_tables(request, session, target) as prediction:
        dataset = prediction.dataset
        if prediction.left_out:
            listed.write(prediction.left_out)
            session.listener.announce("skipped", f"{dataset.left_out:,} invalid rows, see {listed}")
        write_tables(prediction.tables, target, ending)
        if not prediction.left_out:
            listed.remove()  # that of an earlier prediction
        return Predicted(len(dataset), dataset.left_out if prediction.left_out else 0, prediction.scores.to_json())


class Prediction(NamedTuple):
    """The prediction of a source, which is computed as its tables are taken."""

    dataset: Dataset
    """The source."""
    tables: Iterator[pa.Table]
    """Of each batch: what identifies the rows, the predictions, and with `proba` the probabilities of the classes."""
    scores: SourceScores
    """Of the rows that have labels; complete after the last table."""
    left_out: bytes
    """The list of the rows that were skipped; empty if there are none."""


@contextmanager
def predict_tables(request: PredictRequest, session: Session, target: Place) -> Iterator[Prediction]:
    """Predict the source of a request, batch by batch. What is needed meanwhile is stored beside `target`."""
    folder, _ = read_run(locate(str(request.run)))
    job = load_job(folder)
    check_columns(request, job.schema, name_of_rows(job.schema))
    check_ensemble(request.ensemble, job.schema.probabilities, job.config.refit)
    if request.proba and not job.schema.probabilities:
        raise UsageError("--proba: the run predicts values, which have no probabilities; remove the option")
    if request.id and job.schema.image:
        raise UsageError(f"--id {request.id}: images have no columns; omit --id, their paths identify them")
    with _source_dataset(job, request, target, session) as (dataset, left_out):
        check_same_features(job.schema, dataset.schema, str(request.source))
        from ...training.model.prediction import predict_rows  # only now: torch takes a second to load

        scoring = scoring_of(job.schema, job.config)
        scores = SourceScores(Scorer(scoring, own_metrics(job.config)), dataset.schema)
        unknown = UnknownCategories(job.schema)
        predicted = counted(predict_rows(job, folder, dataset, request.ensemble), unknown)
        if dataset.identity != job.identity:  # scores of rows that the models were trained on say nothing
            predicted = scored(predicted, scores)
        tables = _tables_of(request, job.schema, dataset, predicted, session.listener.progress)
        yield Prediction(dataset, tables, scores, left_out)
        if warning := unknown.describe():
            session.listener.announce("warning", warning)


Rows = Iterator[tuple[dict[str, np.ndarray], np.ndarray]]
"""Batches of rows, each with its arrays and its predictions."""


def counted(predicted: Rows, unknown: UnknownCategories) -> Rows:
    """Yield batches, and count their unknown categories."""
    for arrays, predictions in predicted:
        unknown.count(arrays)
        yield arrays, predictions


def scored(predicted: Rows, scores: SourceScores) -> Rows:
    """Yield batches, and add them to the scores."""
    for arrays, predictions in predicted:
        scores.add(arrays, predictions)
        yield arrays, predictions


def _tables_of(
    request: PredictRequest,
    schema: Schema,
    dataset: Dataset,
    predicted: Rows,
    progress: Progress,
) -> Iterator[pa.Table]:
    """The tables of predictions of a run with that `schema`."""
    named = next((column for column in dataset.schema.beside if column.name == request.id), None)
    names, done = check_columns(request, schema, name_of_rows(dataset.schema)), 0
    for arrays, predictions in predicted:
        rows = side_values(named, arrays[named.array]) if named else row_names(dataset, arrays)
        columns = predicted_columns(schema, predictions, request.proba)
        headings = [*names, *[*columns][len(names) - 1 :]]
        yield pa.Table.from_arrays([rows, *columns.values()], headings)
        done += len(predictions)
        progress("predict", done, len(dataset), "rows")


def write_oof(run: str | Path, out: str | Path, *, format: str | None = None, progress: Progress = silent) -> int:
    """Write the out-of-fold predictions of a complete run as a table, CSV or Parquet.

    Each row contains the identifier, the label, the number of models that predicted the row without having seen it, and
    the mean of their predictions: the class and the probability of each class, or the probability or value of each
    label. `format` says the format, "csv" or "parquet", if the ending of `out` does not. Returns the number of rows
    written.
    """
    folder, _ = read_run(locate(run))
    target, ending = new_file(out), ending_of(str(out), format)
    dataset, predictions = load_job(folder).open_data(), open_arrays(folder.oof, "predictions")
    with disk_in_words(target):
        write_tables(oof_tables(dataset, predictions, progress), target, ending)
    return len(dataset)


def output_of(request: PredictRequest) -> tuple[Place, str]:
    """The file that a request writes, and its kind by its ending. Raises UsageError for an unknown one."""
    return new_file(str(request.out)), ending_of(str(request.out), request.format)


def new_file(out: str | Path) -> Place:
    """The place of a file to write. Raises UsageError for a folder."""
    target = locate(out)
    if target.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file in it")
    return target


def check_columns(request: PredictRequest, schema: Schema, rows: str) -> tuple[str, ...]:
    """The names of the first columns: of what identifies the rows, by default that of the id or `rows`, of the labels,
    and for images of the class's probability unless that of every class follows.

    Raises UsageError for a wrong number of names, and for two columns of the same name.
    """
    probability = ("probability",) if schema.image and schema.classes and not request.proba else ()
    usual = (request.id or rows, *schema.labels, *probability)
    names = tuple(request.columns or usual)
    if len(names) != len(usual):
        raise UsageError(f"--columns {','.join(names)}: {len(usual)} names are needed, e.g. {','.join(usual)}")
    every = (*names, *(f"probability_{name}" for name in schema.classes if request.proba))
    if twice := [name for name in names if every.count(name) > 1]:
        raise UsageError(
            f"two columns would have the name '{twice[0]}'; give {len(usual)} other names, e.g. "
            f"--columns {','.join(f'{name}_{i}' for i, name in enumerate(usual, 1))}"
        )
    return names


@contextmanager
def _source_dataset(
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
                listener = session.listener
                dataset = write_images(
                    images, scratch / "source.zarr", executor, listener.progress, tell=listener.announce
                )
        else:
            sources = find_sources([source], job.schema.features)
            tables = ConvertRequest(sources, id=id, like=job.schema, on_error=request.on_error, unknown="code")
            dataset = _convert_source(tables, scratch / "source.zarr", session)
        yield dataset, (dataset.place / LEFT_OUT).read_bytes() if dataset.left_out else b""
    finally:
        scratch.remove_tree()


def _table_of(schema: Schema, table: Location | None) -> str | None:
    """The table of the columns beside images, and of labels to score by. Raises UsageError if it is needed."""
    if schema.table and table is None:
        raise UsageError(
            f"--table: the run's models take columns beside the images ({', '.join(schema.table.features)}); give a "
            "table that has them, and a column that names the images"
        )
    return None if table is None else absolute(str(table))


def _convert_source(request: ConvertRequest, out: Place, session: Session) -> Dataset:
    """Convert the source. Raises RowError with a remedy that does not mention options that `predict` does not have."""
    try:
        return convert_request(request, out, False, session)
    except RowError as error:
        remedy = "fix the row, or skip such rows with --on-error skip"
        place = error.source, error.line, error.columns, error.reason, remedy, error.unit
        others = [RowError(one.source, one.line, one.columns, one.reason, "", one.unit) for one in error.others]
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


def row_names(dataset: Dataset, arrays: dict[str, np.ndarray]) -> pa.Array:
    """The identifiers in the first column: the user's key, or the row's number in the source from 1."""
    return pa.array(keys_of(arrays["key"]) if "key" in arrays else dataset.source_rows(arrays["id"]) + 1)
