"""`fs.append`: new rows from files, folders, tables and arrays."""

from __future__ import annotations

from os import PathLike
from typing import Any

from ...storage.dataset import open_dataset
from ...storage.options import as_text
from ..api.browse import BrowsableDataset, browsable
from ..api.conversion import append_sources
from ..bars import showing_progress
from ..listener import Listener
from ..requests import AppendRequest, Session
from .conversion import samples_in_files
from .memory import is_in_memory, named_in_errors


def append(
    dataset: str | PathLike[str],
    source: Any,
    *,
    label: Any = None,
    listener: Listener | None = None,
    progress: bool = True,
    **options: Any,
) -> BrowsableDataset:
    """Append the rows of a DataFrame, an array, files or folders to a dataset, as its next version. Earlier versions
    stay as they are.

    The rows are converted with the options of the dataset's conversion, and must have its columns, categories and
    classes. The ids of the new rows go on after the last one. The same call resumes an interrupted append, and changes
    nothing once it is complete.

    Args:
        dataset: Dataset to append to.
        source: Rows like those of the dataset: a DataFrame, a table or an array as for `convert`; or paths, patterns or
            URLs of tables or of images.
        label: For a table or an array in memory, the labels as for `convert`, unless they are among its columns.
        listener: Notified of progress instead of the progress bars.
        progress: Show progress bars in a terminal or notebook.
        **options: All other options of `foldstream append`, such as `on_error`, and `client`, a Dask client.

    Returns:
        The new version of the dataset.

    Raises:
        SourceError: A row or an image is invalid, or does not fit the dataset.
        UsageError: An option does not match the data.
        ConflictError: A source is part of the dataset already, or an append of other sources is unfinished.

    Example:
        >>> grown = fs.append("garden.zarr", "more_flowers.csv")
        >>> grown.version, len(grown)
        (2, 300)
    """
    client = options.pop("client", None)
    with showing_progress(listener, progress) as heard:
        session, given = Session(listener=heard, client=client), {"dataset": dataset, **options}
        if not is_in_memory(source):
            return browsable(append_sources(AppendRequest.parse({**given, "sources": source}), session))
        place = open_dataset(as_text(dataset)).place
        with samples_in_files(source, label, place) as written, named_in_errors(written):
            tables = {name: value for name, value in written.options.items() if name == "labels"}
            request = AppendRequest.parse({**given, **tables, "sources": written.place})
            return browsable(append_sources(request, session, timed=False))
