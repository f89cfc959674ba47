"""Lance datasets: columns of one version, which Lance reads in ranges of rows, without those that were deleted."""

from collections.abc import Sequence
from functools import cached_property

import pyarrow as pa

from ....storage.errors import SourceError
from ....storage.foreign.format import LANCE
from ....storage.foreign.groups import open_lance
from ....storage.format.layout import BLOCK_BYTES
from ....storage.places.place import Place
from .tables import Group, TableFiles


class LanceTable(TableFiles):
    """The columns of the newest version of a Lance dataset. Later versions of it do not change what is read."""

    def __init__(self, place: Place) -> None:
        if place.waits_for_network:
            raise SourceError(f"{place}: a Lance dataset is read from a local disk; copy it there")
        self.place = place
        try:
            self._dataset = open_lance(str(place))
        except (ValueError, OSError) as error:
            raise SourceError(f"{place}: Lance cannot open it ({error}); write it again") from None
        self._format = f"{LANCE}{self._dataset.version}"
        self._features = {}
        self._schema = self._dataset.schema

    @cached_property
    def _groups(self) -> Sequence[Group]:
        """Ranges of rows about as large as a block, each in one fragment."""
        fragments = [(one, one.count_rows()) for one in self._dataset.get_fragments()]
        files = [self.place / "data" / one.data_files()[0].path for one, _ in fragments]
        sizes, total = [file.describe().size for file in files], sum(rows for _, rows in fragments)
        if not total:
            raise SourceError(f"{self.place} has no rows; give a table with some")
        row_bytes = max(1, sum(sizes) // total)
        length, found, first = max(1, BLOCK_BYTES // row_bytes), list[Group](), 0
        for file, (_, rows) in zip(files, fragments, strict=True):
            starts = range(first, first + rows, length)
            ranges = [(start, min(length, first + rows - start)) for start in starts]
            found += [Group(file, start, row_bytes * count, count) for start, count in ranges]
            first += rows
        return found

    def _read(self, name: str) -> pa.ChunkedArray:
        return self._dataset.to_table([name]).column(0)
