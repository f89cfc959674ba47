"""An extension of Griffe, which reads the source: functions whose keywords are the fields of a request get them as
parameters, with types, defaults and descriptions."""

import inspect
import re
from importlib import import_module
from typing import Any

import griffe
from foldstream.cluster.requests import Keywords
from foldstream.storage.options import Options
from tables import type_name


class RequestParameters(griffe.Extension):
    """Replaces the parameters of functions that `entry` decorates."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Called for each function that Griffe has read."""
        if not any(str(decorator.value).startswith("entry(") for decorator in func.decorators):
            return
        real = getattr(import_module(func.module.path), func.name)
        signature = inspect.signature(real)
        func.parameters = griffe.Parameters(*map(parameter_of, signature.parameters.values()))
        known = descriptions_of(real)
        if func.docstring:
            func.docstring.value = with_all_arguments(
                inspect.cleandoc(func.docstring.value), {name: known.get(name, "") for name in signature.parameters}
            )


def parameter_of(one: inspect.Parameter) -> griffe.Parameter:
    """A parameter of a signature as Griffe describes those in source."""
    kind = (
        griffe.ParameterKind.keyword_only
        if one.kind is one.KEYWORD_ONLY
        else griffe.ParameterKind.positional_or_keyword
    )
    default = None if one.default is one.empty else default_text(one.default)
    return griffe.Parameter(one.name, annotation=type_name(one.annotation), kind=kind, default=default)


def default_text(value: Any) -> str:
    """A default as it stands in source."""
    text = repr(value)
    return f"{type(value).__name__}()" if isinstance(value, Options) or "<function" in text else text


def descriptions_of(function: Any) -> dict[str, str]:
    """What the fields of a function's request say of themselves, by name."""
    inner = inspect.unwrap(function)
    hint = inner.__annotations__["request"]
    request = inner.__globals__[hint] if isinstance(hint, str) else hint
    return {name: field.description or "" for kind in (Keywords, request) for name, field in kind.model_fields.items()}


def with_all_arguments(text: str, described: dict[str, str]) -> str:
    """A docstring whose section Args has each field: in the docstring's words, otherwise in those of the field."""
    before, title, after = text.partition("\nArgs:\n")
    if not title:
        return text
    section = re.match(r"(?:(?: {4}.*)?(?:\n|$))*", after)
    own = section[0] if section else ""
    words = {found[1]: found[2] for found in re.finditer(r"^ {4}(\w+): ((?:.*)(?:\n {8}.*)*)", own, re.MULTILINE)}
    every = {**described, **words}
    lines = [f"    {name}: {every[name]}" for name in [*described, *(words.keys() - described.keys())] if every[name]]
    return f"{before}\nArgs:\n" + "\n".join(lines) + "\n\n" + after[len(own) :]
