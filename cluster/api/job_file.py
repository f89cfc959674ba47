"""A job as one TOML file: convert, train and predict. What can be told to be wrong is told before any work is done."""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from inspect import signature
from os.path import normpath
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import ray
from distributed import Client

from ...storage.errors import UsageError, check_choice, did_you_mean
from ...storage.object_path import locate
from ...training.config import KINDS
from ...training.model.ensemble import ENSEMBLES
from ...training.run import RunFolder
from ...training.stream.order import check_batch_size, lane_count
from ..callbacks.callback import map_target
from ..dask.local import dask_cluster
from ..dask.on_ray import dask_on_ray
from ..listener import SILENT, Listener
from ..ray.job_cluster import connect_ray
from .conversion import convert_csv, convert_images
from .job_log import job_log
from .predict import new_file, predict
from .train import settle_training, train


@contextmanager
def job_cluster(address: str | None) -> Iterator[Client]:
    """Dask for a whole job: on this machine, or on the Ray cluster at an address, or on the one that is connected; on
    that it trains then too."""
    if address:
        with connect_ray(address), dask_on_ray() as client:
            yield client
    else:
        with dask_on_ray() if ray.is_initialized() else dask_cluster() as client:
            yield client


def run_job(path: str | Path, listener: Listener = SILENT, *, cluster: str | None = None) -> dict[str, Any]:
    """Convert, train and predict as a TOML file says; each part that is done already is skipped.

    It runs on this machine, or on the Ray cluster at the address `cluster` (`auto`: the one of which this machine is a
    node), whose nodes must see the same files.

    Tables `convert.csv` or `convert.images` (sources, out, …), `train` (dataset, run, …) and `predict` (run, source,
    out, …) take the names of the functions' parameters, which are the flags' names. Paths are relative to the file.
    `train.dataset` and `predict.run` default to what the tables before them make. Returns the run's summary.
    """
    tables = load_job_file(Path(path))
    check_job(tables)
    logged = (
        job_log(RunFolder(locate(tables["train"]["run"])), listener) if "train" in tables else nullcontext(listener)
    )
    with logged as listener, job_cluster(cluster) as client:
        listener.announce("Dask dashboard", client.dashboard_link)
        for table in CONVERSIONS.keys() & tables:
            CONVERSIONS[table](**tables[table], listener=listener, client=client)
        summary = train(**tables["train"], listener=listener, client=client) if "train" in tables else {}
        if "predict" in tables:
            predict(**tables["predict"], listener=listener, client=client)
    return summary


CONVERSIONS: dict[str, Callable[..., Any]] = {"convert.csv": convert_csv, "convert.images": convert_images}
JOB_TABLES: dict[str, Callable[..., Any]] = {**CONVERSIONS, "train": train, "predict": predict}
TOML_KINDS = KINDS | {str: '"text"'}
JOB_PATHS = ("sources", "out", "labels", "like", "report", "dataset", "run", "source")


def check_job(tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise UsageError for what is wrong with training or prediction whatever the data are: not only once they are
    converted."""
    if train_table := tables.get("train"):
        call = signature(train).bind(**train_table)
        call.apply_defaults()
        execution, *_ = settle_training(
            **{name: call.arguments[name] for name in signature(settle_training).parameters}
        )
        if not RunFolder(locate(train_table["run"])).job.exists():
            check_batch_size(call.arguments["batch_size"], lane_count(execution.workers))
    if predict_table := tables.get("predict"):
        check_choice("--ensemble", predict_table.get("ensemble", "mean"), ENSEMBLES)
        new_file(predict_table["out"])
        source, made = locate(predict_table["source"]), [table.get("out") for table in tables.values()]
        missing = isinstance(source, Path) and not source.exists() and not set("*?[") & set(str(source))
        if missing and predict_table["source"] not in made:
            raise UsageError(f"[predict] source: {source} does not exist")


def load_job_file(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a job file, checked, with absolute paths. Raises UsageError for names that are not known, and for
    values of another kind."""
    try:
        tables = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{path} is no file; give a job file in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    if isinstance(tables.get("convert"), dict):
        nested = tables.pop("convert")
        tables = {**{f"convert.{kind}": values for kind, values in nested.items()}, **tables}
    for table, values in tables.items():
        if table not in JOB_TABLES:
            raise UsageError(
                f"{path}: table «{table}» is not known; {did_you_mean(table, JOB_TABLES)}there are "
                f"{', '.join(JOB_TABLES)}"
            )
        if not isinstance(values, dict):
            raise UsageError(f"{path}: «{table}» is a table; write [{table}], and below it what is in it")
        parameters = signature(JOB_TABLES[table]).parameters
        known = [name for name in parameters if name not in ("listener", "client")]
        for name, value in values.items():
            if name not in known:
                raise UsageError(
                    f"{path}: «{name}» in [{table}] is not known; {did_you_mean(name, known)}there are "
                    f"{', '.join(known)}"
                )
            if not _fits(value, hint := parameters[name].annotation):
                raise UsageError(f"{path}: «{name}» in [{table}] is {value!r}; it must be {_kinds(hint)}")
        _resolve_paths(values, path.absolute().parent)
    converted = [tables[table].get("out") for table in CONVERSIONS if table in tables]
    if len(converted) > 1:
        raise UsageError(f"{path}: there is one dataset to train on; write {' or '.join(CONVERSIONS)}, not both")
    if converted and "train" in tables:
        tables["train"].setdefault("dataset", converted[0])
    if "train" in tables and "predict" in tables:
        tables["predict"].setdefault("run", tables["train"].get("run"))
    for table, values in tables.items():
        for name, parameter in signature(JOB_TABLES[table]).parameters.items():
            if parameter.default is parameter.empty and name not in values:
                raise UsageError(f"{path}: [{table}] needs «{name}»")
    return tables


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from TOML is of the kind that a parameter is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Sequence:
        return isinstance(value, list) and all(_fits(one, arguments[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, dict)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _kinds(hint: Any) -> str:
    """The kinds of values that an annotation allows, as they are written in TOML."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kinds(one) for one in get_args(hint) if one in TOML_KINDS or get_origin(one)))
    if get_origin(hint) is Sequence:
        return f"a list of {_kinds(get_args(hint)[0])}"
    return TOML_KINDS.get(hint, "a table")


def job_places(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The files, folders and URLs that a job reads and writes; not its model's file."""
    for values in tables.values():
        for name in JOB_PATHS:
            if given := values.get(name):
                yield from given if isinstance(given, list) else [given]


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make a table's paths absolute: they are relative to the job file."""
    for name in JOB_PATHS:
        if name in values:
            given = values[name]
            values[name] = [_from(base, one) for one in given] if isinstance(given, list) else _from(base, given)
    if "model" in values:
        values["model"] = _code(base, values["model"])
    if "callbacks" in values:
        values["callbacks"] = [map_target(one, partial(_code, base)) for one in values["callbacks"]]


def _code(base: Path, name: str) -> str:
    """`path/to/file.py:factory`, whose path is relative to a folder, absolute; another name as it is."""
    return normpath(base / name) if ".py:" in name else name


def _from(base: Path, place: str) -> str:
    """A path that is relative to a folder, absolute; a URL as it is."""
    return place if "://" in place else normpath(base / place)
