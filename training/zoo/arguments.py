"""Which parameters of a model's factory get what the data decide: by their names, or the first two by position."""

import ast
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, Signature
from operator import itemgetter
from typing import Any

from ..fitted.inputs import Inputs

SHAPES = ("sample_shape", "input_shape", "in_shape", "shape")
CHANNELS = ("in_channels", "in_chans", "num_channels", "input_channels")
SIZES = ("in_features", "input_size", "input_dim", "in_dim", "num_features", "n_features")
OUTPUTS = (
    "outputs",
    "num_classes",
    "n_classes",
    "num_outputs",
    "n_outputs",
    "out_features",
    "output_size",
    "output_dim",
    "out_dim",
    "num_labels",
)
SCHEMA = "schema"
KINDS = {"shape": SHAPES, "channels": CHANNELS, "size": SIZES, "outputs": OUTPUTS, SCHEMA: (SCHEMA,)}
"""What a factory may ask for, and the names of parameters that do: the shape of a sample, the first number of it, the
product of its numbers (of several inputs a dict of those), the number of outputs, and the meaning of the columns."""
PLACES = Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD
ANY = "**"  # among settings: any name is accepted

_kind_of = {name: kind for kind, names in KINDS.items() for name in names}


def match_parameters(signature: Signature) -> dict[str, str]:
    """What each parameter of a factory gets from the data, by its name; all others are settings.

    If the first two positional parameters have no defaults and no names that say otherwise, they get the shape of a
    sample and the number of outputs, and all others but `schema` are settings, whatever their names. Names with an
    asterisk stand for places in `*args`.
    """
    parameters = list(signature.parameters.values())
    kinds = {one.kind for one in parameters}
    named = dict[str, str]()
    for one in parameters:
        if (kind := _kind_of.get(one.name)) and kind not in named.values():
            named[one.name] = kind
    places = [one for one in parameters if one.kind in PLACES and one.name != SCHEMA]
    schema = {SCHEMA: SCHEMA} if SCHEMA in named else {}
    if Parameter.VAR_POSITIONAL in kinds and len(places) < 2:
        rest = {"*shape": "shape"} if not places else {f"*{places[0].name}": "shape"}
        return {**rest, "*outputs": "outputs", **schema}
    if _by_position(places, named, signature):
        return {places[0].name: "shape", places[1].name: "outputs", **schema}
    return _by_name(places, named, signature)


def _by_position(places: Sequence[Parameter], named: Mapping[str, str], signature: Signature) -> bool:
    """Whether the names of the first two parameters leave open, or say too, that they get the shape and the outputs."""
    if len(places) < 2 or any(one.default is not one.empty for one in places[:2]):
        return False
    if any(named.get(one.name, kind) != kind for one, kind in zip(places, ("shape", "outputs"), strict=False)):
        return False
    elsewhere = [name for name, kind in named.items() if kind == "outputs" and name != places[1].name]
    return all(signature.parameters[name].default is not Parameter.empty for name in elsewhere)


def _by_name(places: Sequence[Parameter], named: dict[str, str], signature: Signature) -> dict[str, str]:
    """What the names say. Where no name asks for the input, a first parameter without a default gets the shape; where
    none asks for the outputs, a second one gets them, or else `**` as `num_classes`."""
    matched, taken = dict(named), set(named.values())
    free = [one.name if one.default is one.empty and one.name not in named else "" for one in places[:2]]
    if not taken & {"shape", "channels", "size"} and free and free[0]:
        matched[free[0]] = "shape"
    if "outputs" not in taken and len(free) == 2 and free[1]:
        matched[free[1]] = "outputs"
    if "shape" in matched.values():  # a width, then
        for name, kind in named.items():
            if kind in ("channels", "size") and signature.parameters[name].default is not Parameter.empty:
                del matched[name]
    if "outputs" not in matched.values() and any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values()):
        matched["num_classes"] = "outputs"
    return matched


def settings_in(signature: Signature) -> dict[str, Any]:
    """The names of a factory's settings with their defaults. The name `**` means that any name is accepted."""
    matched, settings = match_parameters(signature), dict[str, Any]()
    for one in signature.parameters.values():
        if one.kind is one.VAR_KEYWORD:
            settings[ANY] = None
        elif one.kind is not one.VAR_POSITIONAL and one.name not in matched:
            settings[one.name] = None if one.default is one.empty else one.default
    return settings


def call_factory(factory: Callable[..., Any], inputs: Inputs, outputs: int, settings: Mapping[str, Any]) -> Any:
    """Call a factory with what its parameters ask for, and with settings by their names."""
    signature = inspect.signature(factory)
    values: dict[str, Callable[[], Any]] = {
        "shape": lambda: inputs.shapes,
        "channels": lambda: _of_each(inputs, itemgetter(0)),
        "size": lambda: _of_each(inputs, math.prod),
        "outputs": lambda: outputs,
        SCHEMA: lambda: inputs.schema,
    }
    positional, named = list[Any](), dict(settings)
    for name, kind in match_parameters(signature).items():
        one = signature.parameters.get(name)
        if name.startswith("*") or (one and one.kind is one.POSITIONAL_ONLY):
            positional.append(values[kind]())
        else:
            named[name] = values[kind]()
    return factory(*positional, **named)


def _of_each(inputs: Inputs, number: Callable[[tuple[int, ...]], int]) -> int | dict[str, int]:
    """A number that a shape has, or for several inputs that of each by its name."""
    shapes = inputs.shapes
    return {name: number(shape) for name, shape in shapes.items()} if isinstance(shapes, dict) else number(shapes)


def signature_in_source(source: bytes, attribute: str) -> Signature | None:
    """The signature of a function, or of a class's `__init__`, as its source tells it. None where that does not tell:
    for what is decorated, inherited or assigned, and for defaults that are computed."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):  # who loads it tells what is wrong
        return None
    found = [node for node in body if getattr(node, "name", None) == attribute]
    if found and (of_class := isinstance(found[-1], ast.ClassDef)):
        found = [] if found[-1].decorator_list else [*found[-1].body]
        found = [node for node in found if getattr(node, "name", None) == "__init__"]
    if not found or not isinstance(found[-1], ast.FunctionDef) or found[-1].decorator_list:
        return None
    try:
        return Signature([*_parameters(found[-1].args)][of_class:])
    except ValueError:
        return None


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    """The parameters of a function. Raises ValueError for a default that is computed."""
    named = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(named) - len(arguments.defaults)) + [*arguments.defaults]
    for position, (one, default) in enumerate(zip(named, defaults, strict=True)):
        alone = position < len(arguments.posonlyargs)
        yield _parameter(one, Parameter.POSITIONAL_ONLY if alone else Parameter.POSITIONAL_OR_KEYWORD, default)
    if arguments.vararg:
        yield _parameter(arguments.vararg, Parameter.VAR_POSITIONAL)
    for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(one, Parameter.KEYWORD_ONLY, default)
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, Parameter.VAR_KEYWORD)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None = None) -> Parameter:
    value = Parameter.empty if default is None else ast.literal_eval(default)
    return Parameter(argument.arg, kind, default=value)
