"""The specification of an adopted dataset, decided before anything is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

from ...storage.errors import SourceError, UsageError
from ...storage.foreign.format import Foreign
from ...storage.format.arrays import ArraySpec
from ...storage.format.layout import Layout
from ...storage.format.schema import Schema
from ...storage.places.json_files import content_hash, to_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from .columns import ColumnRequest, Columns, read_columns
from .layout import fitting_layout
from .sources.find import open_source
from .sources.found import FileList, FoundArray, Source, listed, with_names

COPY = "copy them with --copy"


@dataclass(frozen=True)
class AdoptionRequest:
    """What the user asked for: the `place` of the arrays, the paths `x` of the features, which may be empty, the
    dimension of the samples, the shape of a sample if it is not the stored one, the other `columns`, and whether the
    features are copied and the files hashed."""

    place: str
    x: tuple[str, ...] = ()
    sample_dim: str | None = None
    shape: tuple[int, ...] | None = None
    columns: ColumnRequest = field(default_factory=ColumnRequest)
    copy: bool = False
    hash: bool = False


@dataclass(frozen=True)
class AdoptSpec:
    """What is written: a dataset with this layout and schema, whose features are those of `foreign`, or of the library
    of the source if that is None. `columns` are the other arrays."""

    layout: Layout
    schema: Schema
    request: dict[str, Any]
    source: AdoptionRequest
    foreign: Foreign | None
    columns: Columns
    skipped: int = 0
    skipped_rows: tuple[int, ...] = ()

    @property
    def source_bytes(self) -> int:
        """The size of the files of the features, or of the features in memory if that is not known."""
        return self.foreign.stored_bytes if self.foreign else self.layout.rows * self.schema.arrays()[0].row_bytes

    @property
    def inside(self) -> bool:
        """Whether the features are stored in the dataset."""
        return self.source.copy

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays that are stored in the dataset."""
        return tuple(spec for spec in self.schema.arrays() if self.inside or spec.name != "x")


def specify(request: AdoptionRequest) -> AdoptSpec:
    """Explore the source, and decide everything. Raises UsageError and SourceError before anything is written."""
    place, files = locate(request.place), FileList()
    source = open_source(place)
    paths = _features(request, source)
    found = replace(source.find(paths, request.sample_dim, files), path=listed(paths, 3))
    _check(found, request)
    found = with_names(_reshaped(found, request), found.features)
    columns = read_columns(request.columns, source, found.rows)
    sample_shape = found.row_shape or (1,)
    schema = replace(columns.schema, features=found.features, sample_shape=sample_shape, x_dtype=found.dtype)
    foreign = None
    if found.description:
        foreign = Foreign(tuple(files.paths), files.status, {"x": found.description})
    table = content_hash(foreign.to_bytes(), to_json(foreign.to_json())) if foreign else _stamp(place)
    layout = fitting_layout(found.rows, schema.arrays()[0].row_bytes, found.description)
    known = replace(request, x=tuple(paths))
    return AdoptSpec(layout, schema, _as_json(request, table, columns), known, foreign, columns)


def _features(request: AdoptionRequest, source: Source) -> tuple[str, ...]:
    """The paths of the features: those that are named, without what a pattern selects but has another role; by default
    those of the format. Raises UsageError if there are none, or if the label or the id is named too."""
    names, taken, found = source.names(), {*request.columns.paths}, list[str]()
    for path in request.x:
        matched = [] if path in names else [name for name in names if fnmatchcase(name, path)]
        if matched and taken.issuperset(matched):
            raise UsageError(f"--x {path} selects only {listed(matched)}, named by other options; name the features")
        found += [name for name in matched if name not in taken] or [path]
    columns = request.columns
    for path, what in [*((path, "label (--y)") for path in columns.labels), (columns.key or "", "id (--id)")]:
        if path in found:
            raise UsageError(
                f"--x {path}: this is the {what}, from which a model would read the answer off; remove it from --x, "
                "or leave --x out to take all other columns of numbers"
            )
    paths = tuple(dict.fromkeys(found)) or source.default(columns.paths)
    if not paths:
        raise UsageError(f"{source.place} has several arrays; name that of the features with --x: {listed(names)}")
    return paths


def _stamp(place: Place) -> str:
    """A digest of the sizes and times of all files of a place, by which a change of features without a description is
    noticed."""
    return content_hash(to_json([place.describe()] if place.is_file() else list(place.walk())))


def _as_json(request: AdoptionRequest, table: str, columns: Columns) -> dict[str, Any]:
    """What decides the dataset: the options, and digests of where the features are and of the other columns."""
    options: Mapping[str, Any] = {name: value for name, value in asdict(request).items() if name != "columns"}
    return {"adopt": 1, **options, **asdict(request.columns), "table": table, "columns": columns.digest}


def _check(found: FoundArray, request: AdoptionRequest) -> None:
    if found.rows < 2 or not prod(found.row_shape):
        shape = (found.rows, *found.row_shape)
        raise SourceError(
            f"{request.place}: {found.path} has the shape {shape}, which is no set of samples; use another --x"
        )
    if found.description is None and not request.copy:
        raise UsageError(f"{found.reason}; {COPY}, which reads them through the library of their format")


def _reshaped(found: FoundArray, request: AdoptionRequest) -> FoundArray:
    if request.shape is None:
        return found
    if prod(request.shape) != prod(found.row_shape):
        raise UsageError(
            f"--shape {','.join(map(str, request.shape))}: a sample of {found.path} has the shape {found.row_shape}, "
            f"{prod(found.row_shape):,} values; choose a shape with as many"
        )
    return replace(found, row_shape=tuple(request.shape))
