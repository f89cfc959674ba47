"""Browse a dataset: single rows as the stored arrays, or several rows as a table."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ...pipeline.predictions.columns import side_values
from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError
from ...storage.format.arrays import TABLE, x_of
from ...storage.format.sequences import LENGTH
from ...storage.places.locate import Location

if TYPE_CHECKING:
    import pandas as pd

SHOWN, MOST_COLUMNS = 8, 60  # columns, in a line and in a notebook
FIRST = 10  # rows that are shown if nothing else is asked for
DATE_UNITS: dict[str, Literal["D", "s"]] = {"days": "D", "seconds": "s"}


class Row(NamedTuple):
    """One or more rows: `x` (*sample_shape), or a dict of `image` and `table` (columns,) for an image with columns
    beside it; `y` () or (labels,), empty without labels; and `id` (). For several rows, each has a leading row axis."""

    x: Any
    y: np.ndarray
    id: np.ndarray


class BrowsableDataset(Dataset):
    """A dataset. Rows are read by indexing: `dataset[3]` is one row, `dataset[:5]` and `dataset[[1, 7]]` are several.

    It is also a map-style dataset for torch's DataLoader. However, each access reads a whole block: use `fs.stream` to
    train on datasets of any size. A dataset takes the place of its path in every function.

    Example:
        >>> dataset = fs.open("flowers.zarr")
        >>> len(dataset)
        150
        >>> x, y, id = dataset[:5]
        >>> x.shape
        (5, 4)
    """

    def __repr__(self) -> str:
        schema, columns = self.schema, self.columns()
        known = schema.dense.classes if schema.dense else schema.classes
        classes = f", {len(known)} classes" if known else ""
        label = f"{', '.join(schema.labels)} ({schema.task}{classes})" if schema.labels else "none"
        sample = f"{schema.x_dtype} {schema.sample_shape}"
        unit, units = ("MB", 1e6) if self.stored_bytes >= 1e5 else ("kB", 1e3)
        features = [column.name for column in columns if column.role == "feature"]
        others = [f"{one.name} ({one.role})" for one in columns if one.role not in ("feature", "label", "left out")]
        named = [*features[:SHOWN], *[f"and {len(features) - SHOWN} more"] * (len(features) > SHOWN), *others]
        return (
            f"Dataset {self.location}: {len(self):,} rows of {sample}, {self.stored_bytes / units:,.1f} {unit}\n"
            f"label: {label}\ncolumns: {', '.join(named) or 'images'}"
        )

    def _repr_html_(self) -> str:
        import pandas as pd

        title, *facts = map(escape, repr(self).splitlines()[:2])
        columns = pd.DataFrame(map(vars, self.columns())).dropna(axis=1, how="all")
        table = columns.to_html(float_format="{:.4g}".format, border=0, index=False, na_rep="", max_rows=MOST_COLUMNS)
        return f"<b>{title}</b><br>{'<br>'.join(facts)}{table}"

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> Row:
        single = isinstance(index, int | np.integer)
        columns = self._read(self._positions(index))
        if single:
            columns = {name: array[0] for name, array in columns.items()}
        nothing = np.empty((*columns["id"].shape, 0), columns["x"].dtype)
        return Row(x_of(columns), columns.get("y", nothing), columns["id"])

    def rows(self, rows: int | slice | Sequence[int] = FIRST) -> "pd.DataFrame":
        """Return rows as a table with the column names and values of the source.

        Args:
            rows: Number of leading rows, a slice, or row numbers.

        Returns:
            A DataFrame indexed by row number: labels, with class names; features (except the pixels of images), with
            categories as text, dates as dates, and sequences as lists of token ids; and the side columns. Of windows
            over time series, the features are those of the last row of each window.

        Raises:
            UsageError: A row does not exist.

        Example:
            >>> fs.open("flowers.zarr").rows(3)["species"].tolist()
            ['setosa', 'setosa', 'setosa']
        """
        import pandas as pd

        positions = self._positions(slice(rows) if isinstance(rows, int) else rows)
        stored, schema = self._read(positions), self.schema
        table: dict[str, Any] = {}
        for column in schema.named:
            table[column.name] = side_values(column, stored[column.array]).to_pandas().array
        if schema.dense:  # a vector or a mask in each row
            table[schema.labels[0]] = [*stored["y"]]
        for number, name in enumerate(() if schema.dense else schema.labels):
            values = stored["y"].reshape(len(positions), -1)[:, number]
            table[name] = [schema.classes[code] for code in values] if schema.classes else values
        features = stored[TABLE] if schema.table else stored["x"]
        if schema.windows:
            features = features[:, :, -1]
        for number, name in enumerate(schema.tabular.features):
            if schema.tokens:
                lengths = stored[LENGTH].tolist()
                table[name] = [ids[:length].tolist() for ids, length in zip(features, lengths, strict=True)]
            else:
                table[name] = self._feature(name, features.reshape(len(positions), -1)[:, number])
        return pd.DataFrame(table, index=pd.Index(positions, name="row"))

    def _feature(self, name: str, values: np.ndarray) -> Any:
        import pandas as pd

        schema = self.schema.tabular
        if name in schema.dates:
            return pd.to_datetime(values.astype(np.float64), unit=DATE_UNITS[schema.dates[name]])
        if name in schema.categories:
            names = schema.categories[name]
            return [names[int(code)] or None if code < len(names) else None for code in values]
        return values

    def _positions(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """The numbers of the rows, (rows,) int64."""
        try:
            return np.atleast_1d(np.arange(len(self))[index])
        except IndexError:
            raise UsageError(f"row {index} does not exist; use rows from 0 to {len(self) - 1:,}") from None

    def _read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """All arrays of some rows. Each block is read once."""
        names = [spec.name for spec in self.manifest.arrays]
        found, places = self.layout.blocks_at(positions)
        blocks, runs = np.unique(found, return_inverse=True)
        read = BlockReader(self, names).read(blocks.tolist())
        starts = np.array([part.start for part in self.layout.joined(blocks.tolist())], np.int64)
        inside = starts[runs] + places
        return {name: array[inside] for name, array in read.items()}


def open_to_browse(path: Location) -> BrowsableDataset:
    """Open a dataset.

    Args:
        path: Folder of the dataset, or its URL in an object store (`s3://bucket/digits.zarr`).

    Returns:
        The dataset, whose rows can be indexed.

    Args:
        path: Path or URL of the dataset.

    Returns:
        The dataset.

    Raises:
        ForeignError: The dataset does not exist.
        IncompleteError: The conversion of the dataset has not finished.

    Example:
        >>> fs.open("flowers.zarr")
        Dataset .../flowers.zarr: 150 rows of float32 (4,), ...
        label: species (classification, 3 classes)
        columns: sepal_length, sepal_width, petal_length, petal_width
    """
    return browsable(open_dataset(path))


def browsable(dataset: Dataset) -> BrowsableDataset:
    """A dataset with indexing."""
    return BrowsableDataset(dataset.place, dataset.manifest, dataset.identity, dataset.pinned)
