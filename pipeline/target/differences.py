"""What differs between the requests of two conversions, in the words of their options."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...storage.places.json_files import same_json

NESTED = ("roles", "csv", "form", "windows")
FLAGS = {
    "labels": "label",
    "features": "feature",
    "categories": "category",
    "date_formats": "date_format",
    "numbers": "number",
}
LONG = {
    "like": "--like has other columns",
    "listing": "the images have changed since",
    "table": "the files of the features have changed since",
    "columns": "the labels or other columns have changed since",
    "code": "the files of the tokenizer have changed",
    "identity": "the dataset of the runs has changed",
}
MOST_LETTERS = 60


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How the request `here` differs from the one `there` that a dataset was made of, both as JSON."""
    return "; ".join(_differences(_flat(there), _flat(here))) or "other options"


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request on one level."""
    flat = {name: value for name, value in request.items() if name not in NESTED}
    for name in NESTED:
        flat |= {
            "missing_marker" if (name, option) == ("csv", "missing") else option: value
            for option, value in (request.get(name) or {}).items()
        }
    return flat


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys((*there, *here)):
        one, other = there.get(name), here.get(name)
        if same_json(one, other) or not (one or other):
            continue
        if name == "sources":
            yield _sources(one or (), other or ())
        elif name == "stack":
            yield _runs(one or (), other or ())
        elif name in LONG:
            yield LONG[name]
        else:
            flag = name if name == "labels" and isinstance(other or one, str) else FLAGS.get(name, name)
            yield f"--{flag.replace('_', '-')} was {_shown(one)} and is now {_shown(other)}"


def _sources(there: Sequence[Any], here: Sequence[Any]) -> str:
    """How sources differ: which are new or missing, or have changed."""
    old, new = ({one["path"] if isinstance(one, dict) else one: one for one in sources} for sources in (there, here))
    changed = [path for path in new if path in old and not same_json(old[path], new[path])]
    kinds = {"new": [*new.keys() - old.keys()], "missing": [*old.keys() - new.keys()], "changed": changed}
    found = [f"{what}: {_first(sorted(paths))}" for what, paths in kinds.items() if paths]
    return f"sources that are {', '.join(found)}" if found else "the sources have another order"


def _runs(there: Sequence[Mapping[str, Any]], here: Sequence[Mapping[str, Any]]) -> str:
    """How stacked runs differ: other ones, or some that were trained again."""
    if [run["place"] for run in there] != [run["place"] for run in here]:
        old, new = (", ".join(run["name"] for run in runs) for runs in (there, here))
        return f"the runs were {_shown(old)} and are now {_shown(new)}"
    again = [one["place"] for one, other in zip(there, here, strict=True) if not same_json(one, other)]
    return f"trained again since: {_first(again)}"


def _first(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")


def _shown(value: Any) -> str:
    """A value as the command line has it, shortened."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    if value is None or not text:
        return "not given"
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…"
