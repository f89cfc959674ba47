"""Which columns of the sources are read, and what for."""

from collections.abc import Sequence

from ....storage.errors import UsageError, suggest
from ....storage.format.sequences import BESIDE_TOKENS
from ...csv.dialect import UNNAMED
from ...csv.row_batch import Columns
from ...target.labels import label_columns
from ..kinds import Sample, choose_kinds
from ..parquet import ParquetTable
from ..readers import SourceTable
from .request import ConvertRequest


def choose_columns(request: ConvertRequest, tables: Sequence[SourceTable], sample: Sample) -> Columns:
    """Choose the feature columns, their order, and the columns that are read as text.

    Features are all columns except the labels, the id, ignored columns and columns with a role, in the order of the
    first table; or the features of `like`, in which case other columns are ignored.

    `sample` has values of each column. Raises UsageError for a column that does not exist, and for sources whose
    columns differ.
    """
    header, path = tables[0].columns, tables[0].path
    like = request.like
    labels = request.labels_in({*header})
    without_column = [name for name in request.labels if not label_columns(name, {*header})]
    named = [*((name, "--label") for name in without_column), (request.id, "--id")]
    named += [(name, "--ignore") for name in request.ignore]
    named += [(name, "--category") for name in request.categories] + [(name, "--date") for name in request.dates]
    named += [(name, "--number") for name in request.numbers]
    named += [(name, f"--{role}") for role, names in request.roles.items() for name in names]
    named += [(name, "--feature") for name in request.features] + [(request.tokens, "--tokens")]
    parts = parts_of(tables)
    for name, option in named:
        if name and name not in header and not (option == "--ignore" and name in parts):
            of_lists = {part for of_list in parts.values() for part in of_list}
            whole = (*map(str, parts), *(one for one in header if one not in of_lists))
            choices = whole if option == "--tokens" else header
            raise UsageError(f"{option}: {path} has no column '{name}'{suggest(name, choices)}")
    key, beside = key_of(request, tables), columns_beside(request, tables)
    if other := [name for name in request.features if name in (*labels, key, *request.ignore)]:
        raise UsageError(
            f"--feature {other[0]}: the column is also a label, the id or ignored; give it only one of these"
        )
    ignored = {part for name in request.ignore for part in parts.get(name, (name,))}
    aside = {*labels, key, *ignored, *beside, *index_columns(request, tables)}
    features = like.features if like else tuple(name for name in header if name not in aside)
    if request.tokens and request.tokens in aside:
        raise UsageError(f"--tokens {request.tokens}: the column is also a label, the id or one with a role")
    beside_tokens = features_beside(request, features)
    expected = {*features, *aside}
    features = tuple(name for name in features if name not in beside_tokens)
    for table in tables:
        there = {*table.columns}
        missing = [name for name in features if name not in there]
        others = table.columns if not like and request.columns != "first" else request.labels_in(there)
        extra = [name for name in others if name not in expected]
        unlabelled = [name for name in (*labels, key, *beside) if name and name not in there]
        if missing or extra or unlabelled:
            differences = _differences([*missing, *unlabelled], extra, table.columns)
            remedy = "" if like else "; to read such files together, use --columns union or --columns first"
            raise UsageError(f"{table.path} does not have the expected columns: {differences}{remedy}")
    if not features:
        raise UsageError(
            f"{path} has no feature columns besides the labels, the id, ignored columns and columns with a role; check "
            "--label, --id, --ignore, --group and the other role options"
        )
    own = tuple(name for name in (*labels, key) if name)
    of_features = () if request.sequences else features
    kinds = choose_kinds(request, tables[0], of_features, beside, own, sample)
    texts = tuple(dict.fromkeys((*own, *beside, *kinds.categories, *kinds.dates, *request.sequences)))
    required = texts if request.missing == "error" else (*own, *request.required)
    known = _known_texts(request)
    return Columns(features, texts, tuple(kinds.dates), required, kinds.formats, known, request.sequences)


def features_beside(request: ConvertRequest, features: Sequence[str]) -> dict[str, str]:
    """The columns that would be features if samples were no sequences, and the reason why they are dropped."""
    if request.tokens is None or request.like:
        return {}
    wished = (*request.features, *request.categories, *request.dates, *request.numbers)
    if named := [name for name in wished if name in features]:
        raise UsageError(
            f"--tokens {request.tokens}: '{named[0]}' cannot be a feature beside sequences; store it with --keep"
        )
    return dict.fromkeys((name for name in features if name != request.tokens), BESIDE_TOKENS)


def _known_texts(request: ConvertRequest) -> dict[str, tuple[str, ...]]:
    """The texts that columns may have, if rows with others are skipped: those of `like`."""
    if request.like is None or request.on_error == "stop":
        return {}
    classes = dict.fromkeys(request.labels if request.labels == request.like.labels else (), request.like.classes)
    categories = request.like.categories if request.unknown == "error" else {}
    return {name: values for name, values in {**categories, **classes}.items() if values}


def parts_of(tables: Sequence[SourceTable]) -> dict[str | int, list[str]]:
    """The columns that are parts of a nested column, by its name."""
    found = dict[str | int, list[str]]()
    for table in tables:
        for name, way in table.nested.items() if isinstance(table, ParquetTable) else ():
            found.setdefault(way[0], []).append(name)
    return found


def index_columns(request: ConvertRequest, tables: Sequence[SourceTable]) -> dict[str, str]:
    """The columns that are the index of a DataFrame, or have no name, and the reason why they are dropped; except those
    that an option names."""
    named = {*request.features, *request.categories, *request.dates, *request.numbers, *request.labels, request.id}
    named |= {name for names in request.roles.values() for name in names}
    found = dict[str, str]()
    for table in tables:
        index = table.index if isinstance(table, ParquetTable) else ()
        found |= dict.fromkeys(index, "the index of a pandas DataFrame")
        found |= {name: "a column without a name" for name in table.header if name.startswith(UNNAMED)}
    return {name: reason for name, reason in found.items() if name not in named}


def columns_beside(request: ConvertRequest, tables: Sequence[SourceTable]) -> tuple[str, ...]:
    """The side columns: columns with a role that are not features, and those of `like` that all tables have, with its
    labels if the request names none: they may be missing or new, but predictions can be scored by the others."""
    features = {*request.features, *(request.like.features if request.like else ())}
    named = (name for names in request.roles.values() for name in names if name not in features)
    likes = [column.name for column in (request.like.beside if request.like else ())]
    if request.like and not request.labels:
        likes += [name for label in request.like.labels for name in label_columns(label, {*tables[0].columns})]
    taken = {*request.labels, request.id}
    everywhere = (name for name in likes if name not in taken and all(name in table.columns for table in tables))
    return tuple(dict.fromkeys((*named, *everywhere)))


def key_of(request: ConvertRequest, tables: Sequence[SourceTable]) -> str | None:
    """The key column of the rows: that of `id`, or the key column of `like` if all tables have it."""
    likes = request.like.key if request.like else None
    return request.id or (likes if all(likes in table.columns for table in tables) else None)


def _differences(missing: Sequence[str], extra: Sequence[str], header: Sequence[str]) -> str:
    parts = []
    for kind, names in (("missing", missing), ("unexpected", extra)):
        if names:
            shown = ", ".join(f"'{name}'" for name in names[:5])
            parts.append(f"{kind}: {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    hint = suggest(missing[0], header) if len(missing) == 1 else ""
    return "; ".join(parts) + hint
