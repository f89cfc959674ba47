"""The values of a text column, and whether a label is a class or a regression target."""

from collections.abc import Collection, Container
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import UsageError

DISTINCT_LIMIT = 65_536  # distinct values of a text column that are tracked; with more it holds numbers or names


@dataclass(frozen=True)
class TextFindings:
    """The findings for a text column: its distinct values (None if too many), the kind that fits all of them
    ("integer", "number" or "text"), the length in bytes of the longest, and whether any value is missing."""

    distinct: frozenset[str] | None
    kind: str
    width: int
    gaps: bool = False

    @classmethod
    def of(cls, texts: pa.Array, most: int = DISTINCT_LIMIT) -> "TextFindings":
        """The findings for texts, of which at most so many distinct values are tracked."""
        distinct = pc.unique(texts.drop_null())
        values = frozenset(distinct.to_pylist()) if len(distinct) <= most else None
        width = pc.max(pc.binary_length(distinct)).as_py() or 0
        return cls(values, text_kind(distinct), width, texts.null_count > 0)

    def merged(self, other: "TextFindings") -> "TextFindings":
        kind = max(self.kind, other.kind, key=["integer", "number", "text"].index)
        distinct = None
        if self.distinct is not None and other.distinct is not None:
            joined = self.distinct | other.distinct
            distinct = joined if len(joined) <= DISTINCT_LIMIT else None
        return TextFindings(distinct, kind, max(self.width, other.width), self.gaps or other.gaps)


def has_leading_zeros(texts: pa.Array) -> bool:
    """Whether any text is a whole number with leading zeros, such as 00012, which is a name."""
    return bool(pc.any(pc.match_substring_regex(texts, r"^[+-]?0[0-9]+$"), min_count=0).as_py())


def text_kind(texts: pa.Array) -> str:
    """The narrowest kind that fits all texts."""
    for kind, target in (("integer", pa.int64()), ("number", pa.float64())):
        try:
            values = texts.cast(target)
        except pa.ArrowInvalid:
            continue
        if kind == "integer" and has_leading_zeros(texts):
            return "text"
        if kind == "integer" or pc.all(pc.is_finite(values), min_count=0).as_py():
            return kind
    return "text"


def label_columns(label: str, columns: Container[str]) -> tuple[str, ...]:
    """The columns of a label: its own, or those of the numbers of a vector, `NAME_0`, `NAME_1`, …; none if there is no
    such column."""
    if label in columns:
        return (label,)
    return tuple(takewhile(columns.__contains__, (f"{label}_{number}" for number in count())))


CLASS_LIMIT = 100  # integers with at most so many distinct values are taken for classes


def is_whole(label: TextFindings) -> bool:
    """Whether all values of a label are whole numbers, possibly written as 1.0."""
    if label.kind == "number" and label.distinct is not None:
        return all(float(value).is_integer() for value in label.distinct)
    return label.kind == "integer"


def is_binary(label: TextFindings) -> bool:
    """Whether all values of a label are 0 or 1, possibly written as 1.0 or true."""
    return bool(label.distinct) and truths(pa.array(label.distinct)).null_count == 0


def truths(texts: pa.Array) -> pa.Array:
    """1 for texts such as true, True, 1 and 1.0, 0 for their opposites, and null for others, (n,) float64."""
    words = pc.index_in(pc.utf8_lower(texts), pa.array(["false", "true"]))
    ones = pc.match_substring_regex(texts, r"^[+]?0*1(\.0*)?$")
    zeros = pc.match_substring_regex(texts, r"^[+-]?(0+(\.0*)?|\.0+)$")
    digits = pc.if_else(ones, 1, pc.if_else(zeros, 0, pa.scalar(None, pa.int32())))
    return pc.coalesce(words, digits).cast(pa.float64())


def class_codes(values: pa.Array, classes: pa.Array) -> pa.Array:
    """The positions of labels among the classes, null for other values. Labels such as 1.0 are the class 1; where the
    classes are 0 and 1, or false and true, those of the other kind are the same."""
    codes = pc.index_in(values, classes)
    if codes.null_count:
        codes = pc.coalesce(codes, pc.index_in(as_whole_numbers(values), classes))
    if codes.null_count and len(classes) == 2 and not truths(classes).null_count:
        codes = pc.coalesce(codes, pc.index_in(truths(values), truths(classes), skip_nulls=True))
    return codes


def as_whole_numbers(texts: pa.Array) -> pa.Array:
    """Rewrite texts such as 1.0 as 1, the form used for class names; leave any other text unchanged."""
    try:
        numbers = texts.cast(pa.float64())
        whole = numbers.cast(pa.int64()).cast(pa.string())
    except pa.ArrowInvalid:
        return texts
    return pc.if_else(pc.match_substring_regex(texts, r"[.eE]"), whole, texts)


def choose_labels(task: str, labels: dict[str, TextFindings]) -> tuple[str, str, tuple[str, ...]]:
    """Choose the task, the dtype of `y` and the classes. Raises UsageError for labels that do not match the task."""
    name, label = next(iter(labels.items()))
    if task == "auto":
        few = label.distinct is not None and len(label.distinct) <= CLASS_LIMIT
        one_of_few = label.kind == "text" or (few and is_whole(label))
        if len(labels) > 1:
            task = "multilabel" if all(map(is_binary, labels.values())) else "regression"
        else:
            task = "classification" if one_of_few else "regression"
    if task == "multilabel":
        return task, *_check_binary(labels)
    if task == "regression":
        for name, label in labels.items():
            if label.kind == "text":
                remedy = "several labels must all be numeric" if len(labels) > 1 else "use --task classification"
                raise UsageError(f"--task regression: the label '{name}' contains text; {remedy}")
        return task, "float64", ()
    if len(labels) > 1:
        raise UsageError(
            f"--task classification needs a single --label; for {', '.join(labels)} together, use --task multilabel if "
            "all are 0 or 1, otherwise --task regression"
        )
    if label.distinct is None:
        raise UsageError(
            f"--task classification: the label '{name}' has too many distinct values to be classes; "
            "use --task regression or another --label"
        )
    values = as_whole_numbers(pa.array(label.distinct)).to_pylist() if is_whole(label) else _alike(name, label.distinct)
    classes = sorted(set(values), key=(lambda v: (float(v), v)) if label.kind != "text" else str)
    if len(classes) < 2:
        raise UsageError(
            f"the label '{name}' has a single value, '{classes[0]}', but a classifier needs two; use another --label"
        )
    return task, np.min_scalar_type(len(classes) - 1).name, tuple(classes)


def choose_vector(task: str, label: str, numbers: dict[str, TextFindings]) -> tuple[str, str]:
    """The task and the dtype of `y` for a vector: several labels if all its numbers are 0 or 1, else a regression.
    Raises UsageError for a vector that does not match the task."""
    if task == "classification":
        raise UsageError(f"--task classification: the label '{label}' is a vector; use --task regression or multilabel")
    if task == "auto":
        task = "multilabel" if len(numbers) > 1 and all(map(is_binary, numbers.values())) else "regression"
    chosen, dtype, _ = choose_labels(task, numbers)
    return chosen, dtype


def _alike(name: str, values: Collection[str]) -> Collection[str]:
    """Labels without those that mean the same: 0 and 1 if some files have true and false instead, or these in lower
    case if they are written in several ways. Raises UsageError if there are other labels too."""
    found = dict(zip(values, truths(pa.array(values)).to_pylist(), strict=True))
    words = sorted(value for value in values if value.lower() in ("true", "false"))
    digits = sorted(value for value, truth in found.items() if truth is not None and value not in words)
    if not words or not (digits or len({word.lower() for word in words}) < len(words)):
        return values
    if None in found.values():
        raise UsageError(
            f"the label '{name}' is '{words[0]}' in some rows and '{(*digits, *words[1:])[0]}' in others, among other "
            "values; write labels that mean the same alike, or use another --label"
        )
    return {f"{truth:.0f}" for truth in found.values()} if digits else {word.lower() for word in words}


def _check_binary(labels: dict[str, TextFindings]) -> tuple[str, tuple[str, ...]]:
    """The dtype of several labels that are 0 or 1, and no classes. Raises UsageError for others."""
    if len(labels) == 1:
        raise UsageError("--task multilabel needs several labels; for a single label, use --task classification")
    for name, label in labels.items():
        if not is_binary(label):
            raise UsageError(f"--task multilabel: the label '{name}' is not always 0 or 1; use --task regression")
    return "uint8", ()
