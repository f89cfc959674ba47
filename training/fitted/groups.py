"""Several inputs of a model, as groups of columns."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...storage.errors import UsageError, suggest
from .strategies import parse_input


def assign_columns(names: Sequence[str], inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The columns of each of several inputs, as `parse_input` reads them, by its name.

    A column belongs to the input that names it, or else to the first of which a pattern fits. Raises UsageError for
    columns of no input, and for names and inputs without columns.
    """
    parsed = dict(map(parse_input, inputs))
    found: dict[str, list[str]] = {name: [] for name in parsed}
    for column in names:
        named = [name for name, patterns in parsed.items() if column in patterns]
        fitting = named or [name for name in parsed if any(fnmatchcase(column, one) for one in parsed[name])]
        if len(named) > 1:
            raise UsageError(f"--input: {' and '.join(named)} both name the column '{column}'; name it once")
        if not fitting:
            raise UsageError(f"--input: no input has the column '{column}'; add it to one, or --input NAME=*")
        found[fitting[0]].append(column)
    for name, patterns in parsed.items():
        unknown = [one for one in patterns if not set(one) & set("*?[") and one not in names]
        if unknown:
            raise UsageError(
                f"--input {name}=…: the dataset has no feature '{unknown[0]}'{suggest(unknown[0], names)}; name one of "
                "its features"
            )
        if not found[name]:
            raise UsageError(f"--input {name}={','.join(patterns)}: no column is left for it; remove it")
    return {name: tuple(columns) for name, columns in found.items()}
