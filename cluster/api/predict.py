"""Predict new rows with the models of all folds, and export the out-of-fold predictions as a table."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa

from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.listing.list import list_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.predictions.columns import name_of_rows, names_of_rows
from ...pipeline.predictions.files import WRITERS, ending_of, write_tables
from ...pipeline.predictions.oof_table import oof_tables
from ...pipeline.predictions.outputs import TABLES, FileOutput, FolderOutput, Output, ZarrOutput
from ...pipeline.predictions.pictures import PictureOutput, check_pixels
from ...pipeline.predictions.receipts import Facts, Tally
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec.request import ConvertRequest
from ...pipeline.target.claim import SPEC
from ...pipeline.windows.spec import WindowRequest, rows_of
from ...storage.dataset import Dataset, open_arrays, open_dataset
from ...storage.errors import ConflictError, RowError, UsageError, check_choice, disk_in_words
from ...storage.format.manifest import LEFT_OUT, MANIFEST, WORK
from ...storage.format.schema import Schema
from ...storage.options import Location
from ...storage.places.json_files import content_hash, to_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.programs.own_code import Code
from ...storage.tasks import Progress, silent
from ...storage.versions import find_version
from ...training.run import RunFolder
from ..dask.executor import job_executor
from ..prediction.members import Members, read_members
from ..prediction.parts import Parts
from ..prediction.plan import PredictionPlan, check_columns, check_same_features
from ..prediction.work import SOURCE, claimed, work_of
from ..prediction.workers import choose_workers, prediction_executor
from ..requests import Keywords, PredictRequest, Session
from .conversion import absolute, convert_request
from .entry import entry

TablesRequest: TypeAlias = ConvertRequest | WindowRequest
FOLDER, ARRAYS = "/", ".zarr"
"""The ends of the names of a folder of files and of arrays."""


class PredictCall(PredictRequest, Keywords):
    """The keywords of `foldstream.predict`."""


@entry(PredictCall, PredictRequest)
def predict(request: PredictRequest, session: Session) -> "Predicted":
    """Predict a dataset, a CSV file with the run's feature columns, or images with the models of all folds.

    The predictions are written to a CSV or Parquet file, or for many rows to a folder of Parquet files or to Zarr
    arrays. The first column identifies the row: the value of the `id` column, of the column that identifies the
    training rows if the source has it, or the row number starting at 1. The other columns are the most probable class,
    the probability of each label for multi-label data, or the value of each regression target. For images, the first
    column is the path, and a class is followed by its probability. With `proba`, a class is followed by the probability
    of every class, in columns named `probability_CLASS`.

    If the source has the label columns, or images lie in the folders of their classes, the predictions are scored by
    the same metrics as the out-of-fold predictions. Rows whose label is missing or new are not scored, nor is the
    dataset that the run was trained on.

    Of a model for windows over time series, the source has the rows of the series, and each row that ends a window gets
    a forecast of the rows after it, also the last row of each series. The first columns are its time and series.

    A category that does not occur in the training data is treated as unknown; a warning says how many rows have one.

    Args:
        run: Folder of a complete run, or of an ensemble of runs.
        source: Dataset, CSV or Parquet file, or images to predict.
        out: File to write. Its ending says the format: `.csv`, `.csv.gz` or `.parquet`. A name that ends with a slash
            is a folder of Parquet files, and `.zarr` are arrays: `prediction` (rows, outputs), and the rows' `key` or
            `row` number. Masks are PNG files in a folder, or arrays (rows, height, width) uint8 of classes' codes.
        proba: Whether to add the probability of each class. Predictions of multi-label data are probabilities in any
            case.
        format: "csv" or "parquet", for a file whose ending does not say the format.
        columns: Names of the columns before those of `proba`; by default those of the id, or "row" or "path", and of
            the labels.
        id: Column of the source that identifies the rows.
        table: For images: table with a column that names them, the columns beside them, and labels to score by.
        on_error: "stop" at the first invalid row or image, or "skip" them: they are not predicted, and are listed in a
            file beside `out`, for example `submission.left_out.csv`. The other rows keep their numbers.
        ensemble: How to combine the folds' predictions: "mean", "median", "vote", "weighted" by the monitored metric on
            held-out rows, or "refit" to use the model that was trained on all rows except the holdout.
        workers: Workers on Ray, which predict the shards of the source; after a kill, the same call resumes. 0 predicts
            in this process. By default this process predicts up to 1 GB of features; for more there is a worker for
            each GPU or core.

    Returns:
        `rows`, the number of rows written; `left_out`, the number of rows skipped; and `scored`, a dictionary with the
        `rows` that have labels, their `scores` and the 95 % confidence `intervals` of these. It is empty if the source
        has no labels.

    Raises:
        UsageError: An option does not match the run.
        SourceError: The source cannot be read, or does not have the run's columns.
        ConflictError: The folder or the arrays to write to already contain something else.
        RunError: Workers died again and again.

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
    target, kind = output_of(request)
    work, asked = work_of(target), AskedPrediction.of(request)
    output = choose_output(asked.members.schema, request, target, kind)
    if done := output.result():
        if not asked.made(done):
            raise ConflictError(f"{target} already contains other predictions; choose another name, or remove it")
        session.listener.announce("complete", str(target))
        return Predicted(done["rows"], done["left_out"], done["scored"])
    with disk_in_words(target), claimed(target, [asked.digest, kind]) as resumed:
        if not resumed:
            output.check_free()
        dataset, left_out = source_dataset(asked, work, session)
        _list_skipped(target, kind, dataset, left_out, session)
        plan = PredictionPlan.of(request, asked.members, dataset)
        workers = choose_workers(request.workers, dataset)
        if kind in WRITERS and not workers:
            tables, tally = here(plan, session)
            write_tables(tables, target, kind)
            result = asked.result(dataset, left_out, tally)
        else:
            parts = Parts(plan.open(), output, work)
            facts, tally = in_parts(parts, workers, session)
            result = asked.result(dataset, left_out, tally)
            output.commit(parts.opened.form, facts, result)
        _warn_of_unknown(tally, session)
    return Predicted(result["rows"], result["left_out"], result["scored"])


def choose_output(schema: Schema, request: PredictRequest, target: Place, kind: str) -> Output:
    """What the predictions of a run with this schema are written to. Raises UsageError for masks in a table."""
    if what := schema.target_name:
        if kind in WRITERS:
            raise pictures_are_no_table(what, str(target))
        if request.columns or request.id:
            raise UsageError(f"--columns, --id: the run predicts {what}, which have no columns; remove the option")
        if kind == FOLDER:
            check_pixels(schema)
            return PictureOutput(target)
    if kind in WRITERS:
        return FileOutput(target, kind, work_of(target))
    return FolderOutput(target) if kind == FOLDER else ZarrOutput(target)


def pictures_are_no_table(what: str, out: str) -> UsageError:
    """The error for predictions of a run, masks or images, that cannot be a table."""
    return UsageError(
        f"{out}: the run predicts {what}, which are no table; end the name with a slash for a folder of PNG files, or "
        "with .zarr for arrays"
    )


def here(plan: PredictionPlan, session: Session) -> tuple[Iterator[pa.Table], Tally]:
    """The tables of a plan's rows, which this process predicts as they are taken, and their tally, which is complete
    after the last one."""
    from ..prediction.shards import ShardPredictor  # only now: torch takes a second to load

    predictor = ShardPredictor(plan)
    tally = predictor.opened.tally()
    return predictor.tables(tally, session.listener.progress), tally


def in_parts(parts: Parts, workers: int, session: Session) -> tuple[list[Facts], Tally]:
    """Predict parts with so many workers, or with 0 in this process."""
    with prediction_executor(workers, session) as executor:
        return parts.predict(executor, session.listener.progress)


class Prediction(NamedTuple):
    """The prediction of a source. Without workers, it is computed as its tables are taken."""

    dataset: Dataset
    """The source."""
    tables: Iterator[pa.Table]
    """Of each batch: what identifies the rows, the predictions, and with `proba` the probabilities of the classes."""
    left_out: bytes
    """The list of the rows that were skipped; empty if there are none."""


@contextmanager
def predict_tables(request: PredictRequest, session: Session, target: Place) -> Iterator[Prediction]:
    """Predict the source of a request, batch by batch. What is needed meanwhile is stored beside `target`."""
    asked, work = AskedPrediction.of(request), work_of(target)
    if what := asked.members.schema.target_name:
        raise pictures_are_no_table(what, "predict() without a file; use fs.predict(run, source, out)")
    with claimed(target, [asked.digest, TABLES]):
        dataset, left_out = source_dataset(asked, work, session)
        plan = PredictionPlan.of(request, asked.members, dataset)
        if workers := choose_workers(request.workers, dataset):
            output = FileOutput(target, TABLES, work)
            _, tally = in_parts(Parts(plan.open(), output, work), workers, session)
            tables = output.tables(dataset.layout.shards)
        else:
            tables, tally = here(plan, session)
        yield Prediction(dataset, tables, left_out)
        _warn_of_unknown(tally, session)


def _warn_of_unknown(tally: Tally, session: Session) -> None:
    if warning := tally.unknown.describe():
        session.listener.announce("warning", warning)


def _list_skipped(target: Place, kind: str, dataset: Dataset, left_out: bytes, session: Session) -> None:
    """Write the list of skipped rows beside the target, or remove that of an earlier prediction."""
    listed = target.parent / f"{target.name.removesuffix(kind)}.{LEFT_OUT}"
    if left_out:
        listed.write(left_out)
        session.listener.announce("skipped", f"{dataset.left_out:,} invalid rows, see {listed}")
    else:
        listed.remove()


@dataclass(frozen=True)
class AskedPrediction:
    """A request that fits its run, with its source: a dataset, or what has to be converted into one."""

    request: PredictRequest
    members: Members
    source: Dataset | TablesRequest | ImageRequest

    @classmethod
    def of(cls, request: PredictRequest) -> "AskedPrediction":
        """Check a request. Raises UsageError if it does not fit its run."""
        members = read_members(locate(str(request.run)))
        schema = members.schema
        check_columns(request, schema, names_of_rows(schema, request.id))
        members.check_ensemble(request.ensemble)
        if request.proba and not schema.probabilities:
            what = f"{schema.target_name}, which have no columns" if schema.target_name else "values"
            raise UsageError(f"--proba: the run predicts {what}, not probabilities; remove the option")
        if request.id and schema.image:
            raise UsageError(f"--id {request.id}: images have no columns; omit --id, their paths identify them")
        return cls(request, members, _source_of(request, schema))

    @cached_property
    def digest(self) -> str:
        """A hash of what the predictions depend on, except for which images there are."""
        source = self.source.identity if isinstance(self.source, Dataset) else self.source.to_json()
        options = [getattr(self.request, name) for name in ("proba", "columns", "id", "ensemble")]
        return content_hash(to_json([source, options]), self.members.stamp)

    def result(self, dataset: Dataset, left_out: bytes, tally: Tally) -> dict[str, Any]:
        """The result of the prediction as JSON."""
        skipped, images = dataset.left_out if left_out else 0, dataset.request.get("listing")
        about = {"request": self.digest, "images": None if isinstance(self.source, Dataset) else images}
        return {**about, "rows": len(dataset), "left_out": skipped, "scored": tally.scored()}

    def made(self, result: dict[str, Any]) -> bool:
        """Whether this request has made a result. To see whether the images are the same, they are listed."""
        if result["request"] != self.digest:
            return False
        if not isinstance(self.source, ImageRequest):
            return True
        with TemporaryDirectory(prefix="foldstream-") as folder:
            return bool(result["images"] == list_images(self.source.sources, Path(folder)).digest)


def write_oof(run: str | Path, out: str | Path, *, format: str | None = None, progress: Progress = silent) -> int:
    """Write the out-of-fold predictions of a complete run as a table, CSV or Parquet.

    Each row contains the identifier, the label, the number of models that predicted the row without having seen it, and
    the mean of their predictions: the class and the probability of each class, or the probability or value of each
    label. `format` says the format, "csv" or "parquet", if the ending of `out` does not. Returns the number of rows
    written.
    """
    members = read_members(locate(run))
    target, ending = new_file(out), ending_of(str(out), format)
    check_table(members.schema, members.root)
    dataset, predictions = members.open_data(), open_arrays(members.root.oof, "predictions")
    with disk_in_words(target):
        write_tables(oof_tables(dataset, predictions, progress), target, ending)
    return len(dataset)


def check_table(schema: Schema, run: RunFolder) -> None:
    """Raise UsageError if the out-of-fold predictions of a run cannot be a table."""
    if schema.target_name:
        raise UsageError(
            f"{run.root}: its out-of-fold predictions are {schema.target_name}, which are no table; read the array "
            f"'prediction' in {run.oof}, which has the rows of the dataset"
        )


def output_of(request: PredictRequest) -> tuple[Place, str]:
    """The place that a request writes to, and what it becomes: the ending of a file, or FOLDER or ARRAYS.

    Raises UsageError for an unknown ending, and for options that do not match it.
    """
    out = str(request.out)
    if out.endswith(FOLDER):
        if request.format == "csv":
            raise UsageError(f"--format csv: {out} is a folder of Parquet files; remove the option, or name a file")
        return locate(out), FOLDER
    if out.lower().endswith(ARRAYS):
        for option, given in (("--format", request.format), ("--columns", request.columns), ("--proba", request.proba)):
            if given:
                raise UsageError(
                    f"{option}: {out} has arrays with all probabilities, and no columns; remove the option"
                )
        return locate(out), ARRAYS
    return new_file(out), ending_of(out, request.format)


def new_file(out: str | Path) -> Place:
    """The place of a file to write. Raises UsageError for a folder."""
    target = locate(out)
    if target.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file in it")
    return target


def _source_of(request: PredictRequest, schema: Schema) -> Dataset | TablesRequest | ImageRequest:
    """The source of a request if it is a dataset, otherwise its conversion for a run with that `schema`."""
    source, id, place = str(request.source), request.id, locate(str(request.source))
    root = find_version(source).root
    if (root / MANIFEST).exists() or (root / WORK / SPEC).exists():
        dataset = open_dataset(source)
        if request.table is not None:
            raise UsageError(
                f"--table {request.table}: {source} is a dataset, which has its columns; remove the option"
            )
        if id:
            known = (name_of_rows(dataset.schema), *(column.name for column in dataset.schema.beside))
            check_choice(f"{source}: --id", id, known)
        return dataset
    table = _table_of(schema, request.table)
    if schema.image:
        given = (str(place),), schema.image, table
        return ImageRequest(*given, labelled=False, on_error=request.on_error, shuffle=None, like=schema)
    sources = find_sources([source], schema.features)
    rows = ConvertRequest(sources, id=id, like=schema, on_error=request.on_error, unknown="code")
    return WindowRequest(rows_of(rows, schema.windows), schema.windows, ahead=True) if schema.windows else rows


def source_dataset(asked: AskedPrediction, work: Place, session: Session) -> tuple[Dataset, bytes]:
    """The source as a dataset, in the folder `work` if it has to be converted, with the list of what was skipped.

    Raises UsageError unless it has the columns of the run.
    """
    if isinstance(asked.source, Dataset):
        dataset, left_out = asked.source, b""
    else:
        place = work / SOURCE
        try:
            dataset = _convert(asked, asked.source, place, session)
        except ConflictError:  # since an attempt that was interrupted, other images have come
            place.remove_tree()
            dataset = _convert(asked, asked.source, place, session)
        left_out = (dataset.place / LEFT_OUT).read_bytes() if dataset.left_out else b""
    check_same_features(asked.members.schema, dataset.schema, str(asked.request.source))
    return dataset, left_out


def _convert(asked: AskedPrediction, request: TablesRequest | ImageRequest, out: Place, session: Session) -> Dataset:
    """Convert the source, or resume its conversion."""
    if not isinstance(request, ImageRequest):
        tokens = asked.members.schema.tokens
        return _convert_table(request, out, session, tokens.code_in(asked.members.first.root) if tokens else Code())
    with disk_in_words(out), job_executor(session.listener, session.client) as executor:
        listener = session.listener
        return write_images(request, out, executor, listener.progress, tell=listener.announce)


def _table_of(schema: Schema, table: Location | None) -> str | None:
    """The table of the columns beside images, and of labels to score by. Raises UsageError if it is needed."""
    if schema.table and table is None:
        raise UsageError(
            f"--table: the run's models take columns beside the images ({', '.join(schema.table.features)}); give a "
            "table that has them, and a column that names the images"
        )
    return None if table is None else absolute(str(table))


def _convert_table(request: TablesRequest, out: Place, session: Session, code: Code) -> Dataset:
    """Convert the source. Raises RowError with a remedy that does not mention options that `predict` does not have."""
    try:
        return convert_request(request, out, False, session, code=code)
    except RowError as error:
        remedy = "fix the row, or skip such rows with --on-error skip"
        place = error.source, error.line, error.columns, error.reason, remedy, error.unit
        others = [RowError(one.source, one.line, one.columns, one.reason, "", one.unit) for one in error.others]
        raise RowError(*place, others) from None
