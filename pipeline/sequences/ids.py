"""Lists of token ids as flat arrays, as texts, and as the padded rows of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import UsageError
from ...storage.format.sequences import PADDING

SEPARATORS = r"[\[\](){},;\s]+"
LARGEST = np.iinfo(np.uint32).max
LONGEST_SHOWN = 40
NO_ID = "the token id"  # begins the reason why a number is none


@dataclass(frozen=True)
class TokenLists:
    """The ids of several rows, one row after another, (ids,) int64, and the number of each row's, (rows,) int64. A
    row with a reason in `wrong` has none. Zeros at the end of a row are padding and no ids."""

    ids: np.ndarray
    lengths: np.ndarray
    wrong: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: np.ndarray, lengths: np.ndarray, wrong: dict[int, str] | None = None) -> Self:
        """Check the ids, and strip the padding at the end of each row."""
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        reasons = dict(wrong or {})
        for at in np.flatnonzero((ids < 0) | (ids > LARGEST)).tolist():
            reasons.setdefault(int(rows[at]), f"{NO_ID} {ids[at]} is not between 0 and {LARGEST:,}")
        kept = np.zeros(len(lengths), np.int64)
        there = ids != PADDING
        np.maximum.at(kept, rows[there], places[there] + 1)
        kept[list(reasons)] = 0
        return cls(ids[places < kept[rows]], kept, reasons)

    def without(self, rows: Sequence[int]) -> "TokenLists":
        """All other rows."""
        keep = np.ones(len(self.lengths), bool)
        keep[list(rows)] = False
        return TokenLists(self.ids[np.repeat(keep, self.lengths)], self.lengths[keep])

    def fill(self, x: np.ndarray) -> np.ndarray:
        """Store the rows in `x`, (rows, length), padded or truncated. Returns their lengths there, (rows,) int64."""
        stored: np.ndarray = np.minimum(self.lengths, x.shape[1])
        places = np.arange(len(self.ids)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        x[:] = PADDING
        x[np.arange(x.shape[1]) < stored[:, None]] = self.ids[places < x.shape[1]]
        return stored


def parse_ids(texts: pa.Array) -> TokenLists:
    """The ids in texts such as `[3, 1, 4]` or `3 1 4`; none in a missing text."""
    texts = texts.fill_null("")
    try:
        return _parsed(_words(texts))  # as `lists_as_text` writes them, without a regular expression
    except pa.ArrowInvalid:
        words = _words(pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, SEPARATORS, " ")))
    try:
        return _parsed(words)
    except pa.ArrowInvalid:
        return _parse_one_by_one(texts, words)


def _words(texts: pa.Array) -> pa.Array:
    """The words of each text, between spaces."""
    return pc.if_else(pc.equal(texts, ""), pa.scalar([], pa.list_(pa.string())), pc.split_pattern(texts, " "))


def _parsed(words: pa.Array) -> TokenLists:
    """The ids that words are. Raises ArrowInvalid if one is none."""
    return TokenLists.of(words.flatten().cast(pa.int64()).to_numpy(), pc.list_value_length(words).to_numpy())


def _parse_one_by_one(texts: pa.Array, words: pa.Array) -> TokenLists:
    """The same if some texts are no lists of integers."""
    found, wrong = list[np.ndarray](), dict[int, str]()
    for row, of_row in enumerate(words):
        try:
            found.append(of_row.values.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid:
            text = texts[row].as_py()
            shown = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
            wrong[row] = f"'{shown}' is not a list of token ids"
            found.append(np.empty(0, np.int64))
    return TokenLists.of(np.concatenate(found), np.array([len(ids) for ids in found]), wrong)


def lists_of(found: Sequence[Any]) -> TokenLists:
    """The ids in lists, tuples or arrays of integers. Raises TypeError for anything else."""
    arrays = [np.asarray(ids if len(ids) else np.empty(0, np.int64)) for ids in found]
    for ids in arrays:
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise TypeError(f"a list of token ids has the dtype {ids.dtype} and the shape {ids.shape}")
    flat = np.concatenate([np.empty(0, np.int64), *arrays]).astype(np.int64)
    return TokenLists.of(flat, np.array([len(ids) for ids in arrays], np.int64))


def is_list_of_ids(kind: pa.DataType) -> bool:
    """Whether a type of Arrow is a list of integers."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in lists) and pa.types.is_integer(kind.value_type)


def check_tokens(path: str, column: str, kind: pa.DataType) -> None:
    """Raise UsageError for a column of lists that are no token ids."""
    if pa.types.is_nested(kind) and not is_list_of_ids(kind):
        raise UsageError(
            f"--tokens {column}: in {path}, the column has the type {kind}, but token ids are lists of whole numbers; "
            "store them as integers, or write texts and name a function that makes ids of them with --tokenizer"
        )


def remedy_for(reason: str) -> str:
    """What to do about a row without ids, by the reason."""
    if reason.startswith(NO_ID):
        return "number the ids from 1, or take hashes modulo e.g. 100,000; or skip such rows with --on-error skip"
    return (
        "fix the row, name a function that makes ids of text with --tokenizer, or skip such rows with --on-error skip"
    )


def lists_as_text(column: pa.Array) -> pa.Array:
    """Lists of integers as texts like `3 1 4`; null where a list is missing, or one of its values is."""
    words = column.cast(pa.list_(pa.string()))
    return pc.binary_join(words, " ")
