"""A job as one TOML file, whose tables are requests. Errors are reported before any work is done where possible."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os.path import normpath
from pathlib import Path
from typing import Any

from ...storage.errors import UsageError, did_you_mean
from ...storage.options import Options, as_texts
from ...storage.programs.own_code import ROOT, name_in
from ...training.config import SEVERAL_FUNCTIONS
from ...training.search import as_search
from ..callbacks.callback import map_target
from ..requests import AdoptRequest, ConvertImagesRequest, ConvertTablesRequest, PredictRequest, TrainRequest

CONVERSIONS: dict[str, type[ConvertTablesRequest | ConvertImagesRequest | AdoptRequest]] = {
    "convert.csv": ConvertTablesRequest,
    "convert.images": ConvertImagesRequest,
    "adopt": AdoptRequest,
}
JOB_TABLES: dict[str, type[Options]] = {**CONVERSIONS, "train": TrainRequest, "predict": PredictRequest}
JOB_PATHS = ("sources", "place", "out", "labels", "like", "report", "dataset", "run", "source", "init")
JOB_CODE = ("asset",)  # paths too, of files that are uploaded along with a job

Tables = dict[str, dict[str, Any]]
"""The tables of a job file by name, with absolute paths; datasets are made by `convert.csv`, `convert.images` or
`adopt`."""


@dataclass(frozen=True)
class Job:
    """The requests of a job file; each may be absent."""

    convert: ConvertTablesRequest | ConvertImagesRequest | AdoptRequest | None
    train: TrainRequest | None
    predict: PredictRequest | None


def parse_job(tables: Tables) -> Job:
    """Turn tables, as returned by `load_job_file`, into requests."""
    converted = (kind.parse(tables[table]) for table, kind in CONVERSIONS.items() if table in tables)
    train, predict = tables.get("train"), tables.get("predict")
    return Job(
        next(converted, None),
        None if train is None else TrainRequest.parse(train),
        None if predict is None else PredictRequest.parse(predict),
    )


def load_job_file(path: Path) -> Tables:
    """The validated tables of a job file. Raises UsageError for unknown names and invalid values."""
    try:
        tables = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{path} is not a file; give the path of a job file in TOML format") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None
    if isinstance(tables.get("convert"), dict):
        nested = tables.pop("convert")
        tables = {**{f"convert.{kind}": values for kind, values in nested.items()}, **tables}
    for table, values in tables.items():
        if table not in JOB_TABLES:
            hint = did_you_mean(table, JOB_TABLES)
            raise UsageError(f"{path}: unknown table '{table}'; {hint}choose from {', '.join(JOB_TABLES)}")
        if not isinstance(values, dict):
            raise UsageError(f"{path}: '{table}' must be a table; write [{table}] with its options below")
        _resolve_paths(values, path.absolute().parent)
    converted = [tables[table].get("out") for table in CONVERSIONS if table in tables]
    if len(converted) > 1:
        raise UsageError(f"{path}: a job trains on one dataset; write one of {', '.join(CONVERSIONS)}")
    if converted and "train" in tables:
        tables["train"].setdefault("dataset", converted[0])
    if "train" in tables and "predict" in tables:
        tables["predict"].setdefault("run", tables["train"].get("run"))
    for table, values in tables.items():
        JOB_TABLES[table].parse(values, name=partial(_option, path, table))
    return tables


def _option(path: Path, table: str, name: str) -> str:
    """The name of a job file's option in messages."""
    return f"{path}: [{table}] {name} ="


def job_places(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The files, folders and URLs that a job reads and writes; not its model's files."""
    for values in tables.values():
        for name in JOB_PATHS:
            if given := values.get(name):
                yield from given if isinstance(given, list) else [given]


def _resolve_paths(values: dict[str, Any], base: Path) -> None:
    """Make a table's paths absolute: they are relative to the job file."""
    for name in JOB_PATHS + JOB_CODE:
        if name in values:
            given = values[name]
            values[name] = [_from(base, one) for one in given] if isinstance(given, list) else _from(base, given)
    if labels := as_texts(values.get("y")):  # of an adopted place, or files
        values["y"] = [_from_file(base, one) for one in labels]
    if isinstance(values.get("search"), str):  # the file is not there any more where a submitted job runs
        values["search"] = as_search(_from(base, values["search"]))
    for option in ("model", "tokenizer"):
        if isinstance(values.get(option), str):
            values[option] = _code(base, values[option])
    for option in SEVERAL_FUNCTIONS:
        if option in values and isinstance(given := as_texts(values[option]), tuple):
            values[option] = [_code(base, one) for one in given]
    if isinstance(settings := values.get("settings"), dict) and isinstance(settings.get("loss"), str):
        values["settings"] = {**settings, "loss": _code(base, settings["loss"])}
    if isinstance(values.get("callbacks"), list):
        values["callbacks"] = [map_target(one, partial(_code, base)) for one in values["callbacks"]]


def _code(base: Path, name: Any) -> Any:
    """`path/to/file.py:factory`, whose path is relative to a folder, absolute; another name as it is."""
    if not isinstance(name, str) or ".py:" not in name:
        return name
    root, marked, file = name.rpartition(ROOT)
    return name_in(normpath(base / root), file) if marked else normpath(base / file)


def _from_file(base: Path, name: Any) -> Any:
    """Make the name of a file that exists in a folder absolute, also before a colon and the path of an array in it;
    leave other names unchanged."""
    if not isinstance(name, str):
        return name
    file, colon, inner = name.rpartition(":") if ":" in name else (name, "", "")
    return f"{_from(base, file)}{colon}{inner}" if (base / file).is_file() else name


def _from(base: Path, place: Any) -> Any:
    """Make a path that is relative to a folder absolute, with a slash at its end if it has one; leave URLs and
    non-strings unchanged."""
    if not isinstance(place, str) or "://" in place:
        return place
    return normpath(base / place) + "/" * place.endswith("/")
