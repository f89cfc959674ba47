"""Options as typed values: the base class of every request, each part of which is defined beside its code.

Each option is defined once, by its field's name, type, bounds and description. The command line, Python keywords, job
files and stored runs derive from it. This module and those that define options import nothing heavy, because `--help`
has to load them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from .errors import UsageError, did_you_mean

REASONS = {
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be finite",
    "string_type": "must be text",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "is_instance_of": "must be a list",
    "dict_type": "must be a table",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}
"""User-facing text for pydantic's error types; other errors keep their own message."""


@dataclass(frozen=True)
class Cli:
    """How the command line spells a field if it cannot be derived from the name; stored in the type's metadata."""

    flag: str | None = None
    metavar: str | None = None
    parse: Callable[[Any], Any] | None = None
    """Converts what the command line gives, a string or a list of strings, to the field's value."""
    repeatable: bool = False
    """Whether the option may be given several times; its value is then a list of strings."""
    text: bool = False
    """Whether a number may also be given as a word."""


class Options(BaseModel):
    """A group of options, validated and frozen."""

    panel: ClassVar[str] = "Options"
    """Heading of these options in a command's help."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, name: Callable[[str], str] | None = None) -> Self:
        """Create the options from values by name.

        `name` gives the name of a field in messages, e.g. "fold_mode =" in a file; by default its flag. Raises
        UsageError for unknown names and invalid values.
        """
        try:
            return cls.model_validate({key: plain(value) for key, value in values.items()}, strict=True)
        except ValidationError as error:
            raise UsageError(explain(error, cls, name)) from None

    def part(self, kind: type["Options"]) -> dict[str, Any]:
        """The values of the fields defined by `kind`."""
        return {name: getattr(self, name) for name in kind.model_fields}

    def changed(self) -> dict[str, Any]:
        """The values that differ from the defaults, by name."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if field.is_required() or getattr(self, name) != field.get_default(call_default_factory=True)
        }


def plain(value: Any) -> Any:
    """Convert a NumPy number to a Python number; return any other value unchanged."""
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 else value


def flag_of(kind: type[Options], name: str) -> str:
    """The command-line flag of a field."""
    given = spelling(kind.model_fields[name]).flag if name in kind.model_fields else None
    return given or f"--{name.replace('_', '-')}"


def spelling(field: FieldInfo) -> Cli:
    """How the command line spells a field."""
    return next((item for item in field.metadata if isinstance(item, Cli)), Cli())


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The values of a `Literal`, also inside a union; empty for any other type."""
    if getattr(annotation, "__origin__", None) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in choices_of(part))


def options_in(annotation: Any) -> type[Options] | None:
    """The `Options` class that a type is or includes, if any."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next(filter(None, map(options_in, get_args(annotation))), None)


def explain(error: ValidationError, kind: type[Options], name: Callable[[str], str] | None) -> str:
    """The first error as a message for the user: the option, its value, what is wrong and the remedy."""
    errors = error.errors(include_url=False)
    place = errors[0]["loc"]
    if not place:
        return str(errors[0].get("ctx", {}).get("error", errors[0]["msg"]))
    field, depth = str(place[0]), 1
    called = (name or partial(flag_of, kind))(field)
    if len(place) > 1 and field in kind.model_fields and (inner := options_in(kind.model_fields[field].annotation)):
        kind, field, depth = inner, str(place[1]), 2
        called = flag_of(kind, field) if name is None else f"{called.removesuffix(' =')}.{field}"
    if errors[0]["type"] == "missing":
        return f"{called.removesuffix(' =')} is required"
    if errors[0]["type"] == "extra_forbidden":
        return f"{called.removesuffix(' =')} is not an option{nearest(field, kind.model_fields)}"
    value = errors[0]["input"]
    choices = choices_of(kind.model_fields[field].annotation) if field in kind.model_fields else ()
    in_file = called.endswith(" =")
    separator = "" if called.endswith("=") and not in_file else " "  # as in --set lr=0.1
    if choices and isinstance(value, str):
        given = f"{called.removesuffix(' =')} '{value}'" if separator else f"{called}{value}"
        return f"{given} is not valid{nearest(value, choices)}"
    shown = value if isinstance(value, str) and value and not in_file else repr(value)
    return f"{called}{separator}{shown}: {reason_of([one for one in errors if one['loc'][:depth] == place[:depth]])}"


def reason_of(errors: Sequence[Any]) -> str:
    """What is wrong with one field, which may allow several types."""
    words = [REASONS.get(one["type"], str(one.get("ctx", {}).get("error", one["msg"]))) for one in errors]
    first, *others = dict.fromkeys(text.format(**one.get("ctx", {})) for text, one in zip(words, errors, strict=True))
    return " or ".join([first, *(other.removeprefix("must be ") for other in others)])


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known name, and all known names."""
    known = list(names)
    return f": {did_you_mean(name, known)}choose from {', '.join(known)}"


def as_text(value: Any) -> Any:
    """Convert a path, a dataset or a run to a string; return any other value unchanged."""
    if not isinstance(value, PathLike):
        return value
    return str(getattr(value, "location", None) or getattr(value, "place", value))


Location = Annotated[str | PathLike[str], BeforeValidator(as_text)]
"""A local path or an object store URL; validated values are strings."""


def as_texts(value: Any) -> Any:
    """Convert a string to a tuple of one, None to an empty tuple, and a list to a tuple without duplicates."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(dict.fromkeys(value)) if isinstance(value, Iterable) and not isinstance(value, dict) else value


def as_files(value: Any) -> Any:
    """One path or several as texts, see `as_texts`."""
    value = as_texts(as_text(value))
    return tuple(map(as_text, value)) if isinstance(value, tuple) else value


Files = Annotated[
    str | PathLike[str] | Sequence[str | PathLike[str]] | None, BeforeValidator(as_files), Cli(repeatable=True)
]
"""Some files or folders, also one alone; checked values are a tuple of text."""

Texts = Annotated[str | Sequence[str] | None, BeforeValidator(as_texts), Cli(repeatable=True)]
"""One or several strings; validated values are a tuple."""
