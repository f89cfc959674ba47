"""What users call to convert, on a Dask cluster that is given or started for it; and who listens to a job."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from distributed import Client

from ...pipeline.csv.dialect import CsvOptions
from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.tables.convert import convert
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.claim import is_converted
from ...pipeline.verify import Damage, find_damage, repair_shards
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, did_you_mean, disk_in_words
from ...storage.format import ImageForm
from ...storage.object_path import AnyPath, locate
from ...storage.tasks import SerialExecutor
from ..dask.executor import dask_executor
from ..listener import SILENT, Listener


def convert_csv(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    label: str | Sequence[str] | None = None,
    id: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: str = "auto",
    task: str = "auto",
    ignore: Sequence[str] = (),
    category: Sequence[str] = (),
    date: Sequence[str] = (),
    missing: str = "error",
    like: str | Path | None = None,
    unknown: str = "error",
    on_error: str = "stop",
    shuffle: int | None = None,
    csv: CsvOptions | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    dask: str | None = None,
    report: str | Path | None = None,
    listener: Listener = SILENT,
    client: Client | SerialExecutor | None = None,
) -> Dataset:
    """Convert CSV files (plain, .gz, .bz2, .xz, .zst), folders of them or patterns into a dataset at `out`.

    `label` is the column to learn (or several, all numbers), `id` one to keep beside the rows as `key`, `shape` the
    shape of a sample (by default a vector of all other columns but those that `ignore` names). Columns of text become
    codes, dates a number of days or seconds; `category` and `date` name columns whose first rows would mislead.
    `missing` says what stands where a number is missing: "error", "mean", "constant=0", or "indicator" (the mean, and
    a column that marks it).
    `like` is a dataset whose columns, categories and fillings are taken over, as for a test set; `unknown="code"`
    gives a category that it lacks a code of its own. With `on_error="skip"` faulty rows are left out and listed in the
    dataset's `left_out.csv`. `shuffle` is the seed of a shuffle of all rows as they are written. `csv` says how the
    files are written, where that is not seen from their first rows.

    `dask` is the address of a scheduler whose workers see the same files; else workers are started here. `report`
    names an HTML file for Dask's account of the work. A conversion that was cut short is resumed by the same call.
    Raises SourceError for a faulty file or row, UsageError for options that do not fit.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    if not given:
        raise UsageError("no source is given; name at least one CSV file")
    way, constant = parse_missing(missing)
    request = ConvertRequest(
        find_sources([str(source) for source in given]),
        labels=(label,) if isinstance(label, str) else tuple(dict.fromkeys(label or ())),
        id=id,
        shape=tuple(shape) if shape else None,
        dtype=dtype,
        task=task,
        ignore=tuple(ignore),
        categories=tuple(category),
        dates=tuple(date),
        missing=way,
        constant=constant,
        unknown=unknown,
        like=None if like is None else open_dataset(like).schema,
        on_error=on_error,
        shuffle=shuffle,
        csv=csv if isinstance(csv, CsvOptions) else csv_options(csv or {}),
    )
    written = None if report is None else Path(report).absolute()
    return convert_request(request, locate(out), overwrite, listener, client, dask, written)


def convert_images(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    color: str = "rgb",
    fit: str = "pad",
    background: str = "white",
    dtype: str = "uint8",
    labels: str | Path | None = None,
    label: str | Sequence[str] | None = None,
    task: str = "auto",
    like: str | Path | None = None,
    on_error: str = "stop",
    shuffle: int | None = 0,
    overwrite: bool = False,
    dask: str | None = None,
    report: str | Path | None = None,
    listener: Listener = SILENT,
    client: Client | SerialExecutor | None = None,
) -> Dataset:
    """Convert images in folders, patterns and .tar or .zip archives into a dataset at `out`.

    Samples are (channels, height, width), `color` is "rgb" or "gray", `size` their height and width or one number for
    both. `fit` says what becomes of other proportions: "pad" (with the `background`, "white" or "black", over which
    transparent images are laid too), "crop" to the middle, or "stretch". `dtype="uint16"` keeps 16 bits of gray.

    An image's class is the folder that it lies in; or `labels` is a CSV file whose first column names the images and
    whose second, or those that `label` names, are their labels. Images are shuffled by the seed `shuffle`; None leaves
    them in the order of their paths, which are kept as `key`. `like` is a dataset whose form and classes are taken
    over. With `on_error="skip"` images that cannot be decoded are left out and listed in the dataset's
    `left_out.csv`. The rest is as with `convert_csv`.
    """
    taken = None if like is None else open_dataset(like).schema
    if taken and not taken.image:
        raise UsageError(f"--like {like}: it was not made from images")
    if (size is None) == (taken is None):
        raise UsageError("give the samples' --size, as in 64 or 48,64 (height and width), or --like DATASET, not both")
    both = (size, size) if isinstance(size, int) else tuple(size or ())
    if not taken and (len(both) != 2 or min(both) < 1):
        raise UsageError(f"--size {','.join(map(str, both))}: give one number, or height and width, as in 48,64")
    form = taken.image if taken and taken.image else ImageForm((both[0], both[1]), color, fit, background, dtype)
    request = ImageRequest(
        tuple(map(absolute, [sources] if isinstance(sources, str | Path) else sources)),
        form,
        labels=None if labels is None else absolute(labels),
        label=(label,) if isinstance(label, str) else tuple(dict.fromkeys(label or ())),
        task=task,
        on_error=on_error,
        shuffle=shuffle,
        like=taken,
    )
    root = locate(out)
    written = None if report is None else Path(report).absolute()
    with disk_in_words(root), dask_executor(listener, client, dask, written) as executor:
        return write_images(request, root, executor, listener.progress, overwrite)


def absolute(place: str | Path) -> str:
    """A path that holds in another folder too; a URL as it is."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


def csv_options(given: Mapping[str, Any]) -> CsvOptions:
    """How CSV files are written, from a mapping. Raises UsageError for what is not known."""
    known = [one.name for one in fields(CsvOptions)]
    for name in given:
        if name not in known:
            raise UsageError(f"csv: «{name}» is not known; {did_you_mean(name, known)}there are {', '.join(known)}")
    return CsvOptions(**given)


def parse_missing(text: str) -> tuple[str, float | None]:
    """`constant=0` as a way and its value; another way as it is. Raises UsageError."""
    way, separator, value = text.partition("=")
    try:
        constant = float(value) if separator else None
    except ValueError:
        constant = math.nan
    if constant is not None and not math.isfinite(constant):
        raise UsageError(f"--missing {text}: give a number, as in constant=0")
    return way, constant


def convert_request(
    request: ConvertRequest,
    root: AnyPath,
    overwrite: bool,
    listener: Listener,
    client: Client | SerialExecutor | None,
    address: str | None = None,
    report: Path | None = None,
) -> Dataset:
    if is_converted(root, asdict(request), overwrite):
        return open_dataset(root)
    with disk_in_words(root), dask_executor(listener, client, address, report) as executor:
        return convert(request, root, executor, listener.progress, overwrite)


def verify(
    dataset: str | Path, *, repair: bool = False, listener: Listener = SILENT, client: Client | None = None
) -> list[Damage]:
    """Read all of a dataset and return every file that is damaged or missing.

    With `repair`, the damaged shards are converted again from the sources, which must be as they were: SourceError
    if they are not. The files that are returned are then whole again.
    """
    opened = open_dataset(dataset)
    with dask_executor(listener, client) as executor:
        damages = find_damage(opened, executor, listener.progress)
        if damages and repair:
            repair_shards(opened, damages, executor, listener.progress)
    return damages
