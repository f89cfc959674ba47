"""`fs.convert`: tables, arrays, files and folders, whatever the source is."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from os import PathLike
from typing import Any

from ...pipeline.csv.archive import archive_members, is_archive
from ...pipeline.images.formats import is_image
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.sources import is_table as is_table_file
from ...pipeline.tables.spec.request import ConvertRequest
from ...pipeline.windows.spec import WindowRequest
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.places.locate import locate, matching
from ...storage.places.place import Place
from ..api.browse import BrowsableDataset, browsable
from ..api.conversion import convert_image_files, convert_request, convert_tables, report_file, tokenizer_code
from ..bars import showing_progress
from ..listener import Listener
from ..requests import ConvertImagesRequest, ConvertTablesRequest, Session, as_paths
from .memory import Samples, Written, is_in_memory, named_in_errors

FIRST_FILES = 1000  # of a folder, which say whether it holds tables or images
OF_IMAGES = {*ConvertImagesRequest.model_fields} - {*ConvertTablesRequest.model_fields}
OF_TABLES = {*ConvertTablesRequest.model_fields} - {*ConvertImagesRequest.model_fields}


def convert(
    source: Any,
    out: str | PathLike[str],
    *,
    label: Any = None,
    listener: Listener | None = None,
    progress: bool = True,
    **options: Any,
) -> BrowsableDataset:
    """Convert a DataFrame, an array, files or folders into a dataset. The same call opens the dataset that it made.

    A table or an array in memory is first written to a temporary file beside `out`, because a conversion reads files.
    For that reason, damage of such a dataset cannot be repaired; convert the source again.

    Args:
        source: A DataFrame or table of pandas, Polars, Arrow, or whatever has `__arrow_c_stream__`; a NumPy array,
            (rows, columns) for a table, (rows, height, width) or (rows, height, width, 3) for images; or paths,
            patterns or URLs of tables or of images, as for `convert_csv` and `convert_images`, recognized by their
            names.
        out: Where to write the dataset.
        label: Label column, or several target columns. For a table or an array in memory also the labels: an array, a
            Series or a DataFrame with a row for each row of `source`.
        listener: Notified of progress instead of the progress bars.
        progress: Show progress bars in a terminal or notebook.
        **options: All other options of `convert_csv`, such as `id`, or of `convert_images`, such as `size`.

    Returns:
        The dataset.

    Raises:
        SourceError: A file or a row is invalid.
        UsageError: An option does not match the data.
        ConflictError: `out` already contains something else.

    Example:
        >>> frame = pandas.read_csv("flowers.csv")
        >>> fs.convert(frame, "frame.zarr", label="species").schema.classes
        ('setosa', 'versicolor', 'virginica')
        >>> fs.convert("photos/", "photos.zarr", size=16, fit="crop").schema.sample_shape
        (3, 16, 16)
        >>> x, y = numpy.eye(100, 4, dtype="float32"), numpy.arange(100) % 2
        >>> fs.convert(x, "array.zarr", label=y).schema.features
        ('x0', 'x1', 'x2', 'x3')
    """
    client = options.pop("client", None)
    with showing_progress(listener, progress) as heard:
        session = Session(listener=heard, client=client)
        if is_in_memory(source):
            return browsable(_convert_memory(source, label, {"out": out, **options}, session))
        named = {"sources": source, "out": out, "label": label, **options}
        if holds_images(source, options):
            return browsable(convert_image_files(ConvertImagesRequest.parse(named), session))
        return browsable(convert_tables(ConvertTablesRequest.parse(named), session))


def _convert_memory(source: Any, label: Any, options: Mapping[str, Any], session: Session) -> Dataset:
    """Convert a table or an array, through a temporary file whose place follows from its contents."""
    out = locate(options["out"])
    with samples_in_files(source, label, out) as written, named_in_errors(written):
        named = {**written.options, "sources": written.place, **options}
        if written.images:
            return convert_image_files(ConvertImagesRequest.parse(named), session)
        request = ConvertTablesRequest.parse(named)
        like = None if request.like is None else open_dataset(request.like)
        sources = (replace(one, mtime_ns=0) for one in find_sources(request.places))
        code = tokenizer_code(request, like)
        conversion = ConvertRequest.of(tuple(sources), request, like.schema if like else None, code)
        asked, report = WindowRequest.of(conversion, request) or conversion, report_file(request)
        return convert_request(asked, out, request.overwrite, session, request.dask, report, code)


@contextmanager
def samples_in_files(source: Any, label: Any, out: Place) -> Iterator[Written]:
    """Write a table or an array with its labels to files beside `out`, which are removed at the end."""
    samples = Samples.of(source, label)
    folder = out.parent / f"{out.name}.{samples.digest()}"
    try:
        yield samples.write(folder)
    finally:
        folder.remove_tree()


def holds_images(source: Any, options: Iterable[str]) -> bool:
    """Whether sources are images rather than tables, judging by the options, then by the names of files.

    Raises UsageError if there are both.
    """
    given = {*options}
    if given & (OF_IMAGES | OF_TABLES):
        return bool(given & OF_IMAGES)
    names = [name for place in as_paths(source) for name in islice(names_in(place), FIRST_FILES)]
    images = next(filter(is_image, names), None)
    tables = next((name for name in names if is_table_file(name.split("/"))), None)
    if images and tables:
        raise UsageError(
            f"{as_paths(source)[0]} contains images ({images}) and tables ({tables}); use fs.convert_images(..., "
            "labels=TABLE) or fs.convert_csv"
        )
    return images is not None


def names_in(text: str) -> Iterator[str]:
    """The names of the files that a path, a folder, an archive or a pattern stands for."""
    place = locate(text)
    if place.is_dir():
        return (file.name for file in place.walk(follow_links=True))
    if not place.exists() and glob.has_magic(text):
        return (file.name for file in matching(text)[1])
    if place.is_file() and is_archive(place.name):
        return (name for name, _ in archive_members(text))
    return iter((place.name,))
