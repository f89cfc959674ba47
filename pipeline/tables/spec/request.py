"""What the user asked for: the request of a conversion, which also identifies it."""

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from ....storage.errors import UsageError
from ....storage.format.layout import Layout
from ....storage.format.manifest import WORK, Source
from ....storage.format.schema import Schema
from ....storage.options import as_texts
from ....storage.places.json_files import as_json
from ....storage.places.place import Place
from ....storage.programs.own_code import Code
from ...csv.options import CsvOptions
from ...sequences.tokenizer import TokenReading
from ...target.beside import roles_of
from ...target.labels import label_columns
from ..options import TableOptions

NO_CODE = Code()
NEW: dict[str, Any] = {
    "columns": "same",
    "after": None,
    "order": None,
    "tokens": None,
    "tokenizer": None,
    "length": None,
    "code": {},
    "required": (),
}
"""The options that earlier versions did not have, with their defaults."""


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for.

    `ignore` are columns to drop; `roles` are side columns by role, of which those in `features` are also features;
    `categories` and `dates` are feature columns of that kind (the kinds of other columns are inferred from the first
    rows). `date_formats` are formats of dates, for one column if its name and = precede it; `numbers` are columns of
    amounts such as $7.00. `missing` is whether a missing value is kept or an error; `like` is the schema of a dataset
    that this one must match, `unknown` how categories that it does not have are handled; `shuffle` is the seed for
    shuffling all rows, and `order` the SHA-256 of the file of their places (see `shuffle.py`); `columns` is whether
    files must have the "same" columns, or those of all ("union") or the "first" are read. `after` is the layout of the
    dataset that the rows are appended to; its schema is `like`, and must be matched exactly. Samples are sequences of
    the ids in the column `tokens`, at most `length`, which the `tokenizer` makes of texts: a name relative to the
    folder where its files have the hashes `code`. In the columns with a role that are `required`, a missing value
    makes a row invalid.
    """

    sources: tuple[Source, ...]
    labels: tuple[str, ...] = ()
    id: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str = "auto"
    task: str = "auto"
    ignore: tuple[str, ...] = ()
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    date_formats: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    missing: str = "keep"
    unknown: str = "error"
    like: Schema | None = None
    on_error: str = "stop"
    shuffle: int | None = None
    columns: str = "same"
    csv: CsvOptions = field(default_factory=CsvOptions)
    after: Layout | None = None
    tokens: str | None = None
    tokenizer: str | None = None
    length: int | None = None
    code: dict[str, str] = field(default_factory=dict)
    order: str | None = None
    required: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: the seed must be between 0 and 2⁶³ - 1")
        if both := {*self.numbers} & {*self.categories, *self.dates}:
            raise UsageError(
                f"--number {min(both)}: the column is also a category or a date; give it only one of these"
            )
        wishes = {"--tokenizer": self.tokenizer, "--length": self.length}
        if alone := [option for option, value in wishes.items() if value is not None and self.tokens is None]:
            raise UsageError(f"{alone[0]}: it is for sequences; name their column with --tokens COLUMN")
        if self.tokens and (self.shape or self.dtype != "auto"):
            raise UsageError(
                "--tokens: the shape and the type of sequences follow from them; remove --shape and --dtype"
            )
        if self.tokens and self.like:
            raise UsageError("--tokens: with --like, the tokens are those of its dataset; remove one of the options")

    @classmethod
    def of(cls, sources: Sequence[Source], options: TableOptions, like: Schema | None, code: Code = NO_CODE) -> Self:
        """The conversion request for sources and options; `like` is the schema that it must match, and `code` that of
        the tokenizer."""
        return cls(
            tuple(sources),
            labels=as_texts(options.label),
            id=options.id,
            shape=tuple(options.shape) if options.shape else None,
            dtype=options.dtype,
            task=options.task,
            ignore=as_texts(options.ignore),
            roles=roles_of(options),
            features=as_texts(options.feature),
            categories=as_texts(options.category),
            dates=as_texts(options.date),
            date_formats=as_texts(options.date_format),
            numbers=as_texts(options.number),
            missing=options.missing,
            unknown=options.unknown,
            like=like,
            on_error=options.on_error,
            shuffle=options.shuffle,
            columns=options.columns,
            csv=CsvOptions.model_validate(options.csv),
            tokens=options.tokens,
            tokenizer=code.names.get(options.tokenizer or "", options.tokenizer),
            length=options.length,
            code=code.hashes if options.tokenizer else {},
        )

    def sorted_by(self, order: str) -> Self:
        """The same request for rows in the order of a file with this hash."""
        return replace(self, order=order)

    def needed_labels(self, columns: Container[str]) -> tuple[str, ...]:
        """The columns of labels without which a row is left out. If all rows have to match another dataset, or no value
        may be missing, it is invalid instead."""
        return self.labels_in(columns) if (self.after or self.like is None) and self.missing == "keep" else ()

    def labels_in(self, columns: Container[str]) -> tuple[str, ...]:
        """The columns of the labels among all columns: of a vector those of its numbers. Raises UsageError for a vector
        among several labels, and for one that has another length than that of `like`."""
        found = {label: label_columns(label, columns) for label in self.labels}
        vectors = [label for label, own in found.items() if own not in ((), (label,))]
        if vectors and len(self.labels) > 1:
            raise UsageError(f"--label {vectors[0]}: a vector must be the only label; remove the others")
        own, like = tuple(column for columns in found.values() for column in columns), self.like
        if own and like and like.dense and like.labels == self.labels and like.dense.shape != (len(own),):
            raise UsageError(
                f"the label '{like.labels[0]}' is a vector of {len(own):,} numbers, but of {like.dense.shape[0]:,} in "
                "the training data; fix it"
            )
        return own

    @property
    def sequences(self) -> tuple[str, ...]:
        """The column of the token ids, if samples are sequences."""
        column = self.like.tokens.column if self.like and self.like.tokens else self.tokens
        return () if column is None else (column,)

    def reading(self, root: Place) -> TokenReading | None:
        """How texts become token ids in a conversion to `root`; None if samples are no sequences."""
        if self.like and self.like.tokens:
            return TokenReading.of(self.like.tokens, root / WORK, self.unknown == "code")
        return TokenReading(self.tokens, str(root / WORK), self.tokenizer, self.code) if self.tokens else None

    def to_json(self) -> dict[str, Any]:
        """What identifies the conversion; stored with it, as earlier versions did unless new options are used."""
        return {
            **{name: value for name, value in asdict(self).items() if name not in NEW or value != NEW[name]},
            "like": self.like and as_json(self.like),
            **({"after": self.after.to_json()} if self.after else {}),
            "sources": [source.to_json() for source in self.sources],
            "csv": self.csv.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        lists = ("labels", "ignore", "features", "categories", "dates", "date_formats", "numbers", "required")
        tuples = {name: tuple(value.get(name, ())) for name in lists}
        return cls(
            **{
                **value,
                **tuples,
                "roles": {role: tuple(names) for role, names in value["roles"].items()},
                "sources": tuple(Source(**source) for source in value["sources"]),
                "shape": value["shape"] and tuple(value["shape"]),
                "like": value["like"] and Schema.from_json(value["like"]),
                "csv": CsvOptions.model_validate(value["csv"]),
                "after": Layout.from_json(value["after"]) if value.get("after") else None,
            }
        )
