"""Conversion and verification, in this process or on a Dask cluster."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import ImageRequest
from ...pipeline.tables.convert import convert
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.beside import roles_of
from ...pipeline.target.claim import is_converted
from ...pipeline.verify import Damage, find_damage, repair_shards
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, disk_in_words
from ...storage.format import ImageForm
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ..dask.executor import job_executor
from ..listener import SILENT, Listener
from ..requests import ConversionRequest, ConvertImagesRequest, ConvertTablesRequest, Session
from .entry import entry

if TYPE_CHECKING:
    from distributed import Client


class ConvertTablesCall(ConvertTablesRequest, Session):
    """The keywords of `foldstream.convert_csv`."""


@entry(ConvertTablesCall, ConvertTablesRequest)
def convert_csv(request: ConvertTablesRequest, session: Session) -> Dataset:
    """Convert CSV files (plain, .gz, .bz2, .xz, .zst) and Parquet files into a dataset.

    Columns of text become category codes, dates a number of days or seconds. A conversion that was interrupted resumes
    by the same call, and gives the same bytes.

    Args:
        sources: Files, folders of them, patterns, or URLs.
        out: Where to write the dataset.
        label: Column to learn, or several regression targets.
        id: Column that identifies the rows; it is kept beside them as `key`.
        shape: Shape of a sample; by default a vector of all other columns but those that `ignore` names.
        missing: "keep" stores missing values, which training fills by each fold's own rows; "error" stops at one.
        group: Column of groups whose rows stay in one fold. Like `time`, `fold`, `weight` and `keep` (several of them),
            it is kept beside the rows, and learned from only if `feature` names it too.
        like: Dataset whose columns and categories are reused, as for a test set.
        on_error: "stop" at the first invalid row, or "skip" such rows; the dataset's `left_out.csv` lists them.
        csv: `CsvOptions`, or a mapping of them, where they are not detected.
        client: Dask client; by default this process converts, with Dask's threads if there is much to do.
        **options: All other options of `foldstream convert csv`; its `--help` describes them.

    Returns:
        The dataset.

    Raises:
        SourceError: A file or a row is invalid.
        UsageError: An option does not fit the data.
        ConflictError: There is something else at `out`.

    Example:
        >>> fs.convert_csv("train.csv", "digits.zarr", label="label", shape=(1, 28, 28))
    """
    return convert_tables(request, session)


def convert_sources(request: ConvertTablesRequest | ConvertImagesRequest, session: Session) -> Dataset:
    """Convert what a request of either kind names."""
    if isinstance(request, ConvertTablesRequest):
        return convert_tables(request, session)
    return convert_image_files(request, session)


def convert_tables(request: ConvertTablesRequest, session: Session) -> Dataset:
    """Convert what a request names; see `convert_csv`."""
    like = None if request.like is None else open_dataset(str(request.like)).schema
    conversion = ConvertRequest.of(find_sources(request.places), request, like)
    root = locate(str(request.out))
    return convert_request(conversion, root, request.overwrite, session, request.dask, report_file(request))


def report_file(request: ConversionRequest) -> Path | None:
    """The file of Dask's report; absolute, since workers may be in another folder."""
    return None if request.report is None else Path(request.report).absolute()


class ConvertImagesCall(ConvertImagesRequest, Session):
    """The keywords of `foldstream.convert_images`."""


@entry(ConvertImagesCall, ConvertImagesRequest)
def convert_images(request: ConvertImagesRequest, session: Session) -> Dataset:
    """Convert images in folders, patterns and .tar or .zip archives into a dataset.

    Samples are (channels, height, width).

    An image's class is the folder that it lies in; or `labels` is a CSV file whose first column names the images and
    whose second, or those that `label` names, are their labels. Their paths are kept as `key`.

    Args:
        sources: Folders, patterns, archives, or URLs.
        out: Where to write the dataset.
        size: Height and width of a sample, or one number for both.
        fit: How other aspect ratios fit: "pad" (with the `background`), "crop" to the center, or "stretch".
        shuffle: Seed of the order of the images; None: by path.
        like: Dataset whose form and classes are reused, as for a test set.
        on_error: "stop" at the first image that cannot be decoded, or "skip" such images; `left_out.csv` lists them.
        client: Dask client; by default this process converts, with Dask's threads if there is much to do.
        **options: All other options of `foldstream convert images`; its `--help` describes them.

    Returns:
        The dataset.

    Raises:
        SourceError: An image cannot be decoded, or there is none.
        UsageError: An option does not fit.
        ConflictError: There is something else at `out`.

    Example:
        >>> fs.convert_images("photos/", "photos.zarr", size=64, fit="crop")
    """
    return convert_image_files(request, session)


def convert_image_files(request: ConvertImagesRequest, session: Session) -> Dataset:
    """Convert what a request names; see `convert_images`."""
    conversion, root = image_conversion(request), locate(str(request.out))
    with (
        disk_in_words(root),
        job_executor(session.listener, session.client, request.dask, report_file(request)) as executor,
    ):
        return write_images(conversion, root, executor, session.listener.progress, request.overwrite)


def image_conversion(request: ConvertImagesRequest) -> ImageRequest:
    """The conversion that a request asks for. Raises UsageError."""
    like = None if request.like is None else open_dataset(str(request.like)).schema
    if like and not like.image:
        raise UsageError(f"--like {request.like}: it was not made from images")
    if (request.size is None) == (like is None):
        raise UsageError("give the samples' --size, e.g. 64 or 48,64 (height and width), or --like DATASET, not both")
    if like and like.image:
        form = like.image
    else:
        form = ImageForm(
            cast(tuple[int, int], request.size), request.color, request.fit, request.background, request.dtype
        )
    return ImageRequest(
        tuple(map(absolute, request.places)),
        form,
        labels=None if request.labels is None else absolute(str(request.labels)),
        label=cast(tuple[str, ...], request.label),
        roles=roles_of(request),
        task=request.task,
        on_error=request.on_error,
        shuffle=request.shuffle,
        like=like,
    )


def absolute(place: str | Path) -> str:
    """A path that holds in another folder too; a URL as it is."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


def convert_request(
    request: ConvertRequest,
    root: Place,
    overwrite: bool,
    session: Session,
    address: str | None = None,
    report: Path | None = None,
) -> Dataset:
    """Convert tables, unless that is done already."""
    if is_converted(root, request.to_json(), overwrite):
        return open_dataset(root)
    with disk_in_words(root), job_executor(session.listener, session.client, address, report) as executor:
        return convert(request, root, executor, session.listener.progress, overwrite)


def verify(
    dataset: str | PathLike[str], *, repair: bool = False, listener: Listener = SILENT, client: Client | None = None
) -> list[Damage]:
    """Read all of a dataset and find every file that is damaged or missing.

    Args:
        dataset: Dataset to read.
        repair: Convert the damaged shards again from the sources, which must be unchanged.
        listener: Notified of progress and of the dashboard's address.
        client: Dask client; by default this process reads, with Dask's threads if there is much to do.

    Returns:
        The damaged files; with `repair`, they are whole again.

    Raises:
        SourceError: The sources have changed, so nothing can be repaired from them.

    Example:
        >>> fs.verify("digits.zarr", repair=True)
    """
    opened = open_dataset(str(dataset))
    with job_executor(listener, client) as executor:
        damages = find_damage(opened, executor, listener.progress)
        if damages and repair:
            repair_shards(opened, damages, executor, listener.progress)
    return damages
