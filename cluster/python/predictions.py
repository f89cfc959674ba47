"""Predictions of new rows as a DataFrame."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipeline.predictions.oof_table import name_of_rows, side_values
from ...storage.errors import UsageError
from ...storage.format import THRESHOLD, Schema
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...training.run import load_job
from ...training.settings import check_ensemble
from ..api.predict import check_same_features, row_names, source_dataset
from ..bars import showing_progress
from ..listener import Listener
from ..requests import PredictRequest, Session
from ..runs.run import read_run
from ..wording import python_words
from .memory import Samples, Written, is_in_memory, named_in_errors

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".parquet")


def predict_frame(
    run: Place,
    source: Any,
    out: str | PathLike[str] | None,
    options: Mapping[str, Any],
    *,
    listener: Listener | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict a source with a run's models; see `Run.predict`."""
    target = None if out is None else locate(str(out))
    if target is not None and target.suffix not in SUFFIXES:
        raise UsageError(f"out={str(out)!r}: name a file that ends in {' or '.join(SUFFIXES)}")
    with (
        tempfile.TemporaryDirectory(prefix="foldstream-predict-") as scratch,
        showing_progress(listener, progress) as heard,
    ):
        folder = locate(scratch)
        written = Samples.of(source).write(folder) if is_in_memory(source) else Written(source)
        values = {"run": str(run), "source": written.place, "out": folder / "predictions.csv", **options}
        with python_words(options), named_in_errors(written):
            frame = _predict(PredictRequest.parse(values), written, Session(listener=heard))
    if target is not None:
        with target.whole_file() as file:
            write = frame.to_csv if target.suffix == ".csv" else frame.to_parquet
            write(file, index=False)
    return frame


def _predict(request: PredictRequest, written: Written, session: Session) -> pd.DataFrame:
    """The predictions of a request, whose `out` is in a folder for temporary files."""
    import pandas as pd

    folder, _ = read_run(locate(str(request.run)))
    job = load_job(folder)
    check_ensemble(request.ensemble, job.schema.probabilities, job.config.refit)
    if request.id and job.schema.image:
        raise UsageError(f"--id {request.id}: images have no columns; omit --id, their paths identify them")
    with source_dataset(job, request, locate(str(request.out)), session) as (dataset, left_out):
        check_same_features(job.schema, dataset.schema, str(request.source))
        from ...training.model.prediction import predict_rows  # only now: torch takes a second to load

        name = "row" if written.images else request.id or name_of_rows(dataset.schema)
        beside = next((column for column in dataset.schema.beside if column.name == request.id), None)
        names, rows, parts = list[Any](), list[np.ndarray](), list[np.ndarray]()
        for arrays, predictions in predict_rows(job, folder, dataset, request.ensemble):
            rows.append(dataset.source_rows(arrays["id"]))
            if beside:
                names += side_values(beside, arrays[beside.array]).to_pylist()
            else:
                names += (rows[-1] + 1).tolist() if written.images else row_names(dataset, arrays)
            parts.append(predictions)
            session.listener.progress("predict", len(names), len(dataset), "rows")
        if left_out:
            session.listener.announce("skipped", f"{dataset.left_out:,} invalid rows are not predicted")
        columns = {name: names, **prediction_columns(job.schema, np.concatenate(parts))}
        index = None if written.index is None else written.index[np.concatenate(rows)]
        return with_numbers(pd.DataFrame(columns, index), job.schema, job.schema.labels)


def prediction_columns(schema: Schema, predictions: np.ndarray) -> dict[str, Any]:
    """The columns of predictions: the most probable class and the probability of each class; the labels that are more
    probable than not, and their probabilities; or the values of regression targets."""
    if schema.classes:
        chosen = np.array(schema.classes, object)[predictions.argmax(axis=1)]
        outputs = {f"probability_{name}": predictions[:, code] for code, name in enumerate(schema.classes)}
        return {schema.labels[0]: chosen, **outputs}
    by_label = dict(zip(schema.labels, predictions.T, strict=True))
    if not schema.probabilities:
        return by_label
    chosen = {name: (values >= THRESHOLD).astype(np.int64) for name, values in by_label.items()}
    return chosen | {f"probability_{name}": values for name, values in by_label.items()}


def with_numbers(frame: pd.DataFrame, schema: Schema, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table in which classes that are whole numbers are numbers, so that they equal the labels of the source."""
    if schema.classes and all(re.fullmatch("0|-?[1-9][0-9]*", name) for name in schema.classes):
        for column in columns:
            frame[column] = frame[column].astype("Int64" if frame[column].isna().any() else "int64")
    return frame
