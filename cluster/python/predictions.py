"""Predictions of new rows as a DataFrame."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...pipeline.predictions.files import WRITERS, known_ending, write_tables
from ...pipeline.predictions.oof_table import oof_tables
from ...storage.dataset import Dataset, open_arrays
from ...storage.errors import UsageError
from ...storage.format.schema import THRESHOLD, Schema
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import silent
from ...training.run import RunFolder
from ..api.predict import check_table, predict_tables
from ..bars import showing_progress
from ..listener import Listener
from ..prediction.members import read_members
from ..requests import PredictRequest, Session
from ..wording import python_words
from .memory import Samples, Written, is_in_memory, named_in_errors

if TYPE_CHECKING:
    import pandas as pd


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
    ending = None if target is None else known_ending(target.name)
    if target is not None and ending is None:
        raise UsageError(f"out={str(out)!r}: name a file that ends in {', '.join(WRITERS)}")
    with (
        tempfile.TemporaryDirectory(prefix="foldstream-predict-") as scratch,
        showing_progress(listener, progress) as heard,
    ):
        folder = locate(scratch)
        here = is_in_memory(source) or out is None  # without a place that workers can reach
        written = Samples.of(source).write(folder) if is_in_memory(source) else Written(source)
        values = {"run": str(run), "source": written.place, "out": folder / "predictions.csv" if here else out}
        values |= {**options, "workers": 0 if here else options["workers"]}
        with python_words(options), named_in_errors(written):
            frame = _predict(PredictRequest.parse(values), written, Session(listener=heard))
    if target is not None and ending is not None:
        import pyarrow as pa

        write_tables([pa.Table.from_pandas(frame, preserve_index=False)], target, ending)
    return frame


def _predict(request: PredictRequest, written: Written, session: Session) -> pd.DataFrame:
    """The predictions of a request, whose `out` is in a folder for temporary files."""
    import pyarrow as pa

    schema = read_members(locate(str(request.run))).schema
    request = request.model_copy(update={"proba": schema.probabilities})
    with predict_tables(request, session, locate(str(request.out))) as prediction:
        frame = pa.concat_tables(prediction.tables).to_pandas()
        dataset = prediction.dataset
        if prediction.left_out:
            session.listener.announce("skipped", f"{dataset.left_out:,} invalid rows are not predicted")
    rows = dataset.source_rows(np.arange(len(dataset)))
    if written.images:  # the rows of an array have numbers rather than paths
        frame = frame.rename(columns={"path": "row"}).assign(row=rows + 1)
    if schema.task == "multilabel":
        chosen = {label: (frame[label] >= THRESHOLD).astype("int64") for label in schema.labels}
        frame = frame.assign(**chosen, **{f"probability_{label}": frame[label] for label in schema.labels})
    if written.index is not None and not schema.windows:
        frame.index = written.index[rows]
    return with_numbers(frame, schema, schema.labels)


def oof_frame(dataset: Dataset, folder: RunFolder, schema: Schema) -> pd.DataFrame:
    """The out-of-fold predictions in the folder of a run or an ensemble, a row for each row of its dataset."""
    import pyarrow as pa

    check_table(schema, folder)
    table = pa.concat_tables(oof_tables(dataset, open_arrays(folder.oof, "predictions"), silent))
    return with_numbers(table.to_pandas(), schema, (*dataset.schema.labels, "predicted"))


def with_numbers(frame: pd.DataFrame, schema: Schema, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table in which classes that are whole numbers are numbers, so that they equal the labels of the source."""
    if schema.classes and all(re.fullmatch("0|-?[1-9][0-9]*", name) for name in schema.classes):
        for column in columns:
            frame[column] = frame[column].astype("Int64" if frame[column].isna().any() else "int64")
    return frame
