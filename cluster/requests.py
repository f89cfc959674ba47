"""The requests: the options of each command, composed of the parts that their owners define.

The options and help of a command, the keywords of `fs.NAME(...)`, the tables of job files and the command in a report
derive from these classes. Their modules load neither torch nor Ray, Dask or numpy, because `--help` waits for them.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, InstanceOf, model_validator

from ..pipeline.adopt.options import AdoptOptions
from ..pipeline.images.options import ImageOptions
from ..pipeline.tables.options import TableOptions
from ..pipeline.target.options import OnError
from ..storage.errors import UsageError
from ..storage.options import Cli, Location, Options, as_text, flag_of, spelling
from ..storage.programs.callables import name_callable, name_functions
from ..training.config import SEVERAL_FUNCTIONS, Bytes, Ensemble, Execution, Recipe, TrainingOptions
from ..training.search import Search, SearchOptions
from ..training.splits.split import SplitOptions
from .listener import SILENT, Listener

TableFormat = Literal["csv", "parquet"]


class Session(Options):
    """The listener and the Dask client of a job. They are not part of a request."""

    listener: InstanceOf[Listener] = Field(default=SILENT)
    client: Any = Field(default=None)


class Keywords(Options):
    """The keywords of a call from Python that are not part of a request."""

    listener: InstanceOf[Listener] | None = Field(
        default=None, description="Notified of progress instead of the progress bars."
    )
    progress: bool = Field(default=True, description="Show progress bars in a terminal or notebook.")
    client: Any = Field(default=None, description="Dask client to use; by default this process does the work.")


def as_paths(value: Any) -> Any:
    """One path or several as a tuple of text. Raises ValueError for none, and for what is not a list."""
    several = [value] if isinstance(value, str | PathLike) else value
    if not isinstance(several, Iterable) or not (paths := tuple(map(as_text, several))):
        raise ValueError("must be a path, or a list of at least one")
    return paths


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as a dict of text. Raises UsageError."""
    settings = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UsageError(f"--set {pair}: write NAME=VALUE, e.g. lr=0.01")
        settings[name] = value
    return settings


def parse_names(text: str) -> list[str]:
    """`id,label` as a list."""
    return text.split(",")


Sources = Annotated[
    str | PathLike[str] | Sequence[str | PathLike[str]],
    BeforeValidator(as_paths),
    Cli(metavar="SOURCE…", repeatable=True),
]
DaskAddress = Annotated[str | None, Cli(metavar="ADDRESS")]
ReportFile = Annotated[Location | None, Cli(metavar="FILE.html")]
CONVERTS_ON = "Address of a Dask scheduler, e.g. tcp://host:8786; by default this process converts."
REPORT = "HTML file for Dask's performance report."


class ConversionRequest(Options):
    """What all conversions have in common."""

    sources: Sources = Field(
        kw_only=False, description="Files, folders of them, patterns, or URLs of them in an object store."
    )
    out: Annotated[Location, Cli(metavar="OUT.zarr")] = Field(kw_only=False, description="Where to write the dataset.")
    like: Annotated[Location | None, Cli(metavar="DATASET")] = Field(
        default=None,
        description="Dataset whose columns, categories and classes to reuse, e.g. for a test set.",
    )
    overwrite: bool = Field(default=False, description="Replace an existing dataset.")
    dask: DaskAddress = Field(default=None, description=CONVERTS_ON)
    report: ReportFile = Field(default=None, description=REPORT)

    @property
    def places(self) -> tuple[str, ...]:
        """The sources as text."""
        return cast(tuple[str, ...], self.sources)


class ConvertTablesRequest(ConversionRequest, TableOptions):
    """Convert CSV, Parquet, Arrow and JSON lines files into a dataset."""

    @model_validator(mode="before")
    @classmethod
    def name_tokenizer(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A function from Python becomes what the command line would write."""
        given = values.get("tokenizer")
        return {**values, "tokenizer": name_functions("tokenizer", given)} if callable(given) else values


class ConvertImagesRequest(ConversionRequest, ImageOptions):
    """Convert images into a dataset of samples of one size."""


class AdoptRequest(AdoptOptions):
    """Make a dataset of arrays in Zarr, HDF5, NumPy, Arrow, Parquet or Lance files, which stay where they are."""

    place: Annotated[Location, Cli(metavar="PLACE")] = Field(
        kw_only=False, description="File or folder with the arrays, or its URL in an object store."
    )
    out: Annotated[Location, Cli(metavar="OUT.zarr")] = Field(kw_only=False, description="Where to write the dataset.")
    overwrite: bool = Field(default=False, description="Replace an existing dataset.")
    dask: DaskAddress = Field(
        default=None,
        description="Address of a Dask scheduler, e.g. tcp://host:8786; by default this process does the work.",
    )


class AppendRequest(Options):
    """Append the rows of new sources to a dataset, as its next version."""

    dataset: Location = Field(kw_only=False, description="Dataset to append to, made by 'foldstream convert'.")
    sources: Sources = Field(
        kw_only=False,
        description="New sources of the same kind, which are converted with the options of the dataset's conversion.",
    )
    labels: Annotated[Location | None, Cli(metavar="TABLE")] = Field(
        default=None, description="Table of the new images' labels; by default that of the dataset's conversion."
    )
    masks: Location | None = Field(
        default=None, description="Folder or archive of the new images' masks, if the targets of the dataset are masks."
    )
    targets: Location | None = Field(
        default=None,
        description="Folder or archive of the new images' targets, if the targets of the dataset are images.",
    )
    on_error: OnError | None = Field(
        default=None,
        description="stop: stop at the first invalid row or image; skip: skip and list invalid ones; by default as in "
        "the dataset's conversion.",
    )
    dask: DaskAddress = Field(default=None, description=CONVERTS_ON)
    report: ReportFile = Field(default=None, description=REPORT)

    @property
    def places(self) -> tuple[str, ...]:
        """The sources as text."""
        return cast(tuple[str, ...], self.sources)


class PruneRequest(Options):
    """Remove the newest versions of a dataset, or what an interrupted append has left."""

    dataset: Location = Field(kw_only=False, description="Dataset to prune.")
    keep: Annotated[int | None, Cli(metavar="VERSION")] = Field(
        default=None,
        ge=1,
        description="Last version to keep: the rows that later ones have added are removed. By default only what an "
        "interrupted append has left is removed.",
    )


class TrainRequest(Execution, SplitOptions, TrainingOptions):
    """Train k folds with Ray Train and merge their out-of-fold predictions."""

    panel: ClassVar[str] = TrainingOptions.panel

    dataset: Location = Field(kw_only=False, description="Dataset to train on, made by 'convert', 'adopt' or 'stack'.")
    run: Location = Field(kw_only=False, description="Folder of the run: weights, predictions, report, logs.")
    plan: Annotated[str | None, Cli(metavar="NAME")] = Field(
        default=None, description="Fold plan made by 'foldstream split', instead of the split options."
    )
    settings: Annotated[
        Mapping[str, Any] | None, Cli(flag="--set", metavar="NAME=VALUE", parse=parse_settings, repeatable=True)
    ] = Field(
        default=None,
        description=f"Setting, repeatable: {', '.join(Recipe.settings())}, or one of the model's own. Several values "
        "separated by commas make a grid.",
    )
    search: Annotated[Search, Cli(metavar="FILE.toml")] = Field(
        default=None,
        description="TOML file of a search over settings: candidates are drawn from its table space, and those that "
        "lose are stopped early.",
    )
    shares: int | None = Field(
        default=None,
        ge=1,
        description="Number of parts into which each batch is divided. With up to as many workers, the weights are the "
        "same. 1 computes the whole batch at once, like a plain training loop. By default the number of workers, on "
        "CPUs at least 2.",
    )

    callbacks: Annotated[
        list[Any] | tuple[Any, ...], Cli(flag="--callback", metavar="NAME[=ARGUMENT]", repeatable=True)
    ] = Field(
        default=(),
        description="Callback, repeatable: mlflow=EXPERIMENT, wandb=PROJECT, prometheus=PORT, path/to/file.py:factory "
        "or package.module:factory.",
    )

    @model_validator(mode="before")
    @classmethod
    def name_code(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Functions and classes from Python become what the command line would write, and what a model's
        `functools.partial` holds becomes settings."""
        named, given = dict(values), values.get("settings")
        settings = dict(given) if isinstance(given, Mapping) else {}
        for option in SEVERAL_FUNCTIONS:
            if option in named:
                named[option] = name_functions(option, named[option])
        if "loss" in settings:
            settings["loss"] = name_functions("loss", settings["loss"])
        if callable(model := named.get("model")):
            named["model"], held = name_callable("model", model)
            if both := sorted(held.keys() & {*Recipe.settings()}):
                raise UsageError(
                    f"model: functools.partial gives '{both[0]}', which is a setting of the training; rename the "
                    "factory's parameter"
                )
            settings = {**{key: [value] for key, value in held.items()}, **settings}
        return {**named, "settings": settings} if settings else named


class SearchRequest(TrainRequest, SearchOptions):
    """Search the settings of a training: the options of a search and of the training side by side."""

    def as_training(self) -> TrainRequest:
        """The same as a training with its search."""
        if self.search is not None:
            raise UsageError("--search is what the other keywords give; remove it")
        return TrainRequest.model_validate({**self.part(TrainRequest), "search": self.part(SearchOptions)})


class SplitRequest(SplitOptions):
    """Assign the rows of a dataset to folds, and keep the plan with the dataset."""

    panel: ClassVar[str] = Options.panel

    dataset: Location = Field(kw_only=False, description="Dataset to split.")
    name: str = Field(default="default", kw_only=False, description="Name of the plan; a dataset may have several.")
    seed: int = Field(default=0, description="Seed of the folds.")
    overwrite: bool = Field(default=False, description="Replace another plan of that name.")


class PredictRequest(Options):
    """Predict new rows by all folds together, and write a CSV or Parquet file, a folder of them, or Zarr."""

    run: Location = Field(kw_only=False, description="Folder of a complete run, or of an ensemble of runs.")
    source: Location = Field(
        kw_only=False, description="Dataset, CSV file with the run's feature columns, or folder of images."
    )
    out: Annotated[Location, Cli(metavar="OUT.csv|OUT.parquet|OUT/|OUT.zarr")] = Field(
        kw_only=False,
        description="File to write. Its ending says the format: .csv, .csv.gz or .parquet; a slash at the end writes a "
        "folder of Parquet files, and .zarr writes arrays.",
    )
    proba: bool = Field(
        default=False,
        description="Add a column probability_CLASS for each class. Predictions of multi-label data are probabilities "
        "in any case, and a regression has none.",
    )
    format: TableFormat | None = Field(default=None, description="Format of a file whose ending does not say it.")
    columns: Annotated[list[str] | tuple[str, ...] | None, Cli(metavar="NAME,NAME", parse=parse_names)] = Field(
        default=None,
        description="Names of the columns before those of --proba; by default those of the id (or row, path) and of "
        "the labels.",
    )
    id: str | None = Field(
        default=None, description="Column of the source that identifies the rows; by default they are numbered from 1."
    )
    table: Location | None = Field(
        default=None,
        description="Table with a column that names the images, the columns beside them for a model that takes some, "
        "and labels to score by.",
    )
    on_error: OnError = Field(
        default="stop",
        description="stop: stop at the first invalid row or image; skip: leave such rows out, and list them in "
        "OUT.left_out.csv.",
    )
    ensemble: Ensemble = Field(
        default="mean",
        description="How the folds' predictions are combined: mean, median, vote, weighted (by the monitored metric on "
        "held-out rows, by default the loss), or refit, the model that was trained on all rows except the holdout.",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="Workers on Ray that predict the shards of the source, or 0 to predict in this process; by default "
        "0 for up to 1 GB of features, else one for each GPU or core.",
    )


class EnsembleRequest(Options):
    """Weigh several complete runs over the same folds by their out-of-fold predictions."""

    runs: Annotated[Sequence[str | PathLike[str]], BeforeValidator(as_paths), Cli(metavar="RUN…", repeatable=True)] = (
        Field(kw_only=False, description="Folders of complete runs on one dataset with the same folds.")
    )
    out: Location = Field(kw_only=False, description="Folder of the ensemble: weights, predictions, report.")
    method: Literal["greedy", "nnls", "mean", "stack"] = Field(
        default="greedy",
        description="How weights are found: greedy selection with replacement by a metric, nnls (non-negative least "
        "squares), or mean, equal ones; or stack: train a linear model on the predictions, with the same folds.",
    )
    metric: str | None = Field(
        default=None,
        description="Metric by which greedy selects, e.g. auc; by default what the first run monitors, or else the "
        "loss.",
    )
    seed: int = Field(default=0, description="Seed of the rows that greedy sees if not all of them fit.")
    memory: Bytes = Field(
        default=None,
        description="Memory for the predictions that greedy sees, a uniform sample of the rows if not all fit; by "
        "default 256MB.",
    )
    dask: DaskAddress = Field(default=None, description="Address of a Dask scheduler; by default this process.")


class StackRequest(Options):
    """Make a dataset with the out-of-fold predictions of runs as features, and with their folds."""

    runs: Annotated[Sequence[str | PathLike[str]], BeforeValidator(as_paths), Cli(metavar="RUN…", repeatable=True)] = (
        Field(kw_only=False, description="Folders of complete runs on one dataset with the same folds.")
    )
    out: Location = Field(kw_only=False, description="Dataset to write.")
    only: bool = Field(default=False, description="Leave out the features that the runs were trained on.")
    overwrite: bool = Field(default=False, description="Replace an existing dataset.")
    dask: DaskAddress = Field(default=None, description=CONVERTS_ON)


class SubmitRequest(Options):
    """Submit a job file to a Ray cluster, or to one that is created for it on Kubernetes."""

    job: Annotated[str, Cli(metavar="JOB.toml")] = Field(
        kw_only=False, description="Job file, as for 'foldstream run'."
    )
    to: Annotated[str | None, Cli(metavar="ADDRESS")] = Field(
        default=None, description="Address of a cluster, e.g. http://HOST:8265; by default the local cluster."
    )
    follow: bool = Field(default=False, description="Print the job's output until it ends.")
    kubernetes: bool = Field(default=False, description="Create a cluster for the job on Kubernetes, with KubeRay.")
    image: str = Field(default="", description="With --kubernetes: image built from deploy/docker, in your registry.")
    name: str = Field(default="", description="With --kubernetes: name of the RayJob; by default the run's name.")
    nodes: Annotated[str, Cli(metavar="MIN:MAX")] = Field(
        default="0:8", description="With --kubernetes: minimum and maximum number of worker pods."
    )
    secret: str = Field(
        default="foldstream-storage", description="With --kubernetes: Secret with the credentials of the storage."
    )
    manifests: Annotated[str | None, Cli(metavar="FOLDER")] = Field(
        default=None, description="With --kubernetes: kustomization to use instead of the built-in one."
    )
    dry_run: bool = Field(default=False, description="With --kubernetes: print the manifests, submit nothing.")


def words_of(request: Options, always: Iterable[str] = ()) -> list[str]:
    """The arguments that ask the command line for a request: those that differ from the defaults, and `always` some
    more, which hold when defaults change."""
    kind, shown = type(request), {*request.changed(), *always}
    words = [str(getattr(request, name)) for name, field in kind.model_fields.items() if field.is_required()]
    for name, field in kind.model_fields.items():
        value, flag = getattr(request, name), flag_of(kind, name)
        if name not in shown or field.is_required() or value is None or value is False:
            continue
        if value is True:
            words.append(flag)
            continue
        several = [f"{key}={one}" for key, one in value.items()] if isinstance(value, Mapping) else value
        if not spelling(field).repeatable:
            several = [",".join(map(str, value)) if isinstance(value, list | tuple) else value]
        words += [word for one in several for word in (flag, str(one))]
    return words
