"""Commands whose arguments and options are the fields of a request."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature
from typing import Annotated, Any, Optional, TypeVar, get_args

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from ...storage.options import Options, choices_of, flag_of, options_in, spelling

Request = TypeVar("Request", bound=Options)
NUMBERS = (bool, int, float)


def request_command(
    app: typer.Typer, request: type[Request], name: str
) -> Callable[[Callable[[Request], None]], Callable[[Request], None]]:
    """Turn a function of a request into the command `name`, which takes the request's fields."""

    def decorate(function: Callable[[Request], None]) -> Callable[[Request], None]:
        @wraps(function)
        def command(**values: Any) -> None:
            function(request.parse(gather(request, values)))

        parameters = sorted(parameters_of(request), key=lambda one: one.default is not Parameter.empty)
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name)(command)
        return function

    return decorate


def parameters_of(kind: type[Options]) -> Iterator[Parameter]:
    """The parameters of a command that takes these options; the fields of nested options are on the same level."""
    for name, field in kind.model_fields.items():
        if inner := options_in(field.annotation):
            yield from parameters_of(inner)
            continue
        yield Parameter(
            parameter_of(kind, name), Parameter.KEYWORD_ONLY, default=default_of(field), annotation=typed(kind, name)
        )


def parameter_of(kind: type[Options], name: str) -> str:
    """The name of a field's parameter: the name of its flag, which is unique within a command."""
    return flag_of(kind, name).removeprefix("--").replace("-", "_")


def default_of(field: FieldInfo) -> Any:
    """The default that the command line shows."""
    if field.is_required():
        return Parameter.empty
    if spelling(field).repeatable:
        return []
    default = field.get_default(call_default_factory=True)
    as_it_is = default is None or (isinstance(default, NUMBERS) and not spelling(field).text)
    return default if as_it_is else str(default)


def typed(kind: type[Options], name: str) -> Any:
    """The type of a field's parameter for Typer, with its help."""
    field = kind.model_fields[name]
    spelled = spelling(field)
    of_value = list[str] if spelled.repeatable else number_in(field.annotation) or str
    if spelled.text:
        of_value = str
    description = escape(field.description or "")
    if field.is_required():
        return Annotated[of_value, typer.Argument(metavar=spelled.metavar or name.upper(), help=description)]
    owner = next(base for base in reversed(kind.__mro__) if name in getattr(base, "__annotations__", {}))
    choices = choices_of(field.annotation)
    option = typer.Option(
        flag_of(kind, name),
        metavar=spelled.metavar or "|".join(choices) or None,
        help=description,
        rich_help_panel=getattr(owner, "panel", None),
        autocompletion=_completion(choices) if choices else None,
    )
    return Annotated[Optional[of_value] if default_of(field) is None else of_value, option]  # noqa: UP045 - at run time


def _completion(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """The completion of an option: a function, because Typer reads its signature."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def number_in(annotation: Any) -> Any:
    """The numeric type that a type is, possibly optional; None for all other types."""
    kinds = [part for part in get_args(annotation) or [annotation] if part is not type(None)]
    return kinds[0] if len(kinds) == 1 and kinds[0] in NUMBERS else None


def gather(kind: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields, with nested options as mappings, from the parameters' values."""
    gathered: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if inner := options_in(field.annotation):
            gathered[name] = gather(inner, values)
            continue
        value, spelled = values[parameter_of(kind, name)], spelling(field)
        gathered[name] = spelled.parse(value) if spelled.parse and value is not None else value
    return gathered
