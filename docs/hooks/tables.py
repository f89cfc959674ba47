"""The parts of the reference that come from the code: commands, settings, built-in models, types of options."""

import inspect
from collections.abc import Iterator, Sequence
from enum import EnumType
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import foldstream as fs
import typer
from foldstream.cli import app
from foldstream.storage.options import choices_of
from foldstream.training.config import Recipe
from foldstream.training.zoo import networks
from foldstream.training.zoo.factory import BUILT_IN, DEFAULTS
from pydantic.fields import FieldInfo

GIVEN = "sample_shape", "outputs", "schema"
"""The arguments of a model's factory that are no settings."""
REFERENCE = {
    "Datasets": [
        "convert",
        "convert_csv",
        "convert_images",
        "append",
        "open",
        "Dataset",
        "verify",
        "prune",
        "split_rows",
    ],
    "Training": ["train", "Run", "run_job"],
    "Predictions and models": ["predict", "load_models", "export"],
    "Your own training loop": ["stream", "normalizer"],
    "Progress, events and errors": ["Callback", "Listener", "FoldstreamError"],
}
"""The public names by subject."""
WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table of cells that are Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: Any) -> str:
    """A default as one writes it on the command line; empty for none."""
    if value in (None, "", (), []) or value is inspect.Parameter.empty:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"


def type_name(annotation: Any) -> str:
    """A type as one writes it in source: `str | PathLike[str] | None`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(inner[0])
    if origin in (Literal, Union, UnionType):
        literal = f"Literal[{', '.join(map(repr, choices))}]" if (choices := choices_of(annotation)) else ""
        others = [type_name(one) for one in inner if origin is not Literal and not choices_of(one)]
        return " | ".join(dict.fromkeys(filter(None, [literal, *others])))
    if origin:
        return f"{origin.__name__}[{', '.join(map(type_name, inner))}]"
    special = {NoneType: "None", Ellipsis: "..."}
    return special.get(annotation) or str(getattr(annotation, "__name__", annotation))


def values_of(field: FieldInfo) -> str:
    """The values that a setting may have."""
    if choices := choices_of(field.annotation):
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(item, name)
    ]
    return ", ".join([WORDS.get(getattr(field.annotation, "__name__", ""), "text"), *limits])


def settings_table() -> str:
    """Each setting of a training, with its values, its default and its meaning."""
    rows = [
        (f"`{name}`", values_of(field), shown(field.default), escape(field.description or ""))
        for name, field in Recipe.model_fields.items()
        if name in Recipe.settings()
    ]
    return table(("setting", "values", "default", "meaning"), rows)


def models_tables() -> str:
    """Each built-in model, with its settings and the defaults of the training that it changes."""
    parts = []
    for name, factory in BUILT_IN.items():
        kind = getattr(networks, factory)
        settings = [one for one in inspect.signature(kind).parameters.values() if one.name not in GIVEN]
        rows = [(f"`{one.name}`", shown(one.default)) for one in settings]
        recipe = ", ".join(f"`{key}={value}`" for key, value in DEFAULTS.get(name, {}).items())
        parts += [f"### {name}", inspect.cleandoc(kind.__doc__ or ""), table(("setting", "default"), rows)]
        parts += [f"It is trained with {recipe} unless you set something else."] if recipe else []
    return "\n\n".join(parts)


def reference_page() -> str:
    """Each public name, for mkdocstrings to fill in."""
    grouped = {name for names in REFERENCE.values() for name in names}
    parts = []
    for title, names in {**REFERENCE, "More": [name for name in fs.__all__ if name not in grouped]}.items():
        known = [name for name in names if name in fs.__all__]
        options = "    options:\n      heading: fs.{0}\n      toc_label: fs.{0}"
        parts += [f"## {title}"] if known else []
        parts += [f"::: foldstream.{name}\n" + options.format(name) for name in known]
    return "\n\n".join(parts)


def commands_page() -> str:
    """Each command with its usage, arguments and options."""
    return "\n\n".join(_command(typer.main.get_command(app), "foldstream"))


def _command(command: Any, name: str, depth: int = 1) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if depth > 1:
        words, _, example = (command.help or "").partition("Example:")
        yield f"{'#' * min(depth, 3)} {name}"
        yield escape(words)
        if not inner:
            arguments = " ".join(
                one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument"
            )
            yield f'```text title="Usage"\n{" ".join([name, "[OPTIONS]", arguments]).strip()}\n```'
        if example:
            yield f'```sh title="Example"\n{example.strip()}\n```'
    panels: dict[str, list[tuple[str, ...]]] = {}
    for one in command.params:
        if one.name != "help" and not one.hidden:
            panels.setdefault(one.rich_help_panel or "", []).append(_option(one))
    for panel, rows in panels.items():
        yield from [f"**{panel}**"] if panel else []
        yield table(("argument or option", "type", "default", "meaning"), rows)
    for key, one in inner.items():
        yield from _command(one, f"{name} {key}", depth + 1)


def _option(parameter: Any) -> tuple[str, ...]:
    argument = parameter.param_type_name == "argument"
    names = [parameter.metavar or parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    kind = _kind(parameter, argument)
    default = parameter.default if isinstance(parameter.default, bool | int | float | str) else None
    return (
        "<br>".join(f"`{one}`".replace("|", r"\|") for one in names),
        kind + (", repeatable" if parameter.multiple or parameter.nargs == -1 else ""),
        "required" if parameter.required else "" if kind == "flag" else shown(default),
        escape((parameter.help or "").replace("\\[", "[")),
    )


def _kind(parameter: Any, argument: bool) -> str:
    """The values that an argument or option takes."""
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    bare = next((one for one in get_args(annotation) if one is not type(None)), annotation)
    choices: Sequence[str] = (
        [str(one.value) for one in list[Any](bare)] if isinstance(bare, EnumType) else choices_of(annotation)
    )
    if not choices and "|" in (spelled := parameter.metavar or "") and spelled.islower():
        choices = spelled.split("|")
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    least = f", ≥ {parameter.min}" if parameter.min is not None else ""
    written = f" `{parameter.metavar}`" if parameter.metavar and not argument else ""
    return WORDS.get(bare.__name__, "text") + least + written
