"""How stored rows become a model's input, decided before torch is imported: the meaning of each column, how it is
scaled, and how missing values are filled.

Everything here is pure: a schema, the statistics of the rows that a model trains on, and the user's options go in, and
a plan comes out. `Normalizer` applies it on the device.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

from ...storage.errors import UsageError, suggest
from ...storage.format.arrays import IMAGE, TABLE
from ...storage.format.schema import Schema
from ...storage.format.sequences import TokenForm
from ...storage.format.statistics import Statistics
from .groups import assign_columns
from .strategies import Fill, Scaling, is_image_alone, parse_fill, parse_scaling

Value = TypeVar("Value")
ONE_HOT_VALUES = 64
"""For a model without a `schema` parameter, a category with at most this many values is one-hot encoded."""
ROUNDING = 2.0**-44
"""Spread relative to the mean, some hundred times the precision of float64, below which it is just rounding."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's channels (red, green and blue) for values from 0 to 1."""


@dataclass(frozen=True)
class InputColumn:
    """One input of a model for tabular rows.

    `kind`: "number" or "date" (scaled); "category", whose input is a code from 0 to `values` - 1, where the last code
    stands for values that do not occur in the training data; or "missing", which is 1 where the column of that name has
    no value.
    """

    name: str
    kind: Literal["number", "date", "category", "missing"]
    values: int = 0


@dataclass(frozen=True)
class InputSchema:
    """What a factory gets as `schema`: the columns of the input in order (the channels of windows; none for images and
    other samples that are no vectors; those beside the images if there are any), the task, and the labels or classes
    that its outputs stand for. With several inputs, the columns of each by its name too. The ids of sequences of tokens
    are below `vocabulary`, 0 for other data."""

    columns: tuple[InputColumn, ...]
    task: str | None
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    inputs: dict[str, tuple[InputColumn, ...]] = field(default_factory=dict)
    vocabulary: int = 0


@dataclass(frozen=True)
class Inputs:
    """How stored channels become inputs, (channels,) each: the input is (value - `center`) · `scale`, or `filled` for a
    missing value.

    Of the channels of a vector or a window, the ones in `kept` come first, in this order. The channels in `one_hot`
    follow, with one input per code, and then one input for each channel in `marked`, which is 1 where a value is
    missing.
    """

    center: tuple[float, ...]
    scale: tuple[float, ...]
    filled: tuple[float, ...]
    kept: tuple[int, ...]
    one_hot: tuple[tuple[int, int], ...]
    marked: tuple[int, ...]
    shape: tuple[int, ...]
    """The shape of a sample as passed to the model."""
    schema: InputSchema
    groups: dict[str, "InputGroup"] = field(default_factory=dict)
    """The inputs by their names, if there are several."""
    table: "Inputs | None" = None
    """How the columns beside an image become inputs, in addition to the image itself."""
    windows: bool = False
    """Whether samples are windows over rows, (channels, rows of a window)."""

    @property
    def shapes(self) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
        """The shape of a sample, or of several inputs those of each by its name."""
        if self.table:
            return {IMAGE: self.shape, **by_name(self.table.shapes)}
        return {name: (len(group.places),) for name, group in self.groups.items()} or self.shape


def by_name(of_table: Value | dict[str, Value]) -> dict[str, Value]:
    """What belongs to the columns beside an image by the names of their inputs: one, or several."""
    return of_table if isinstance(of_table, dict) else {TABLE: of_table}


@dataclass(frozen=True)
class InputGroup:
    """One of several inputs: its places in the vector of all, and whether they hold nothing but codes, which are
    whole numbers (int64) then."""

    places: tuple[int, ...]
    codes: bool


def usual_fill(schema: Schema, statistics: Statistics) -> str:
    """The default strategy for missing values, given the statistics of all rows: the mean, with indicators if any
    values are missing."""
    some = has_columns(schema.tabular) and missing_numbers(schema.tabular, statistics.tabular)
    return "indicator+mean" if some else "mean"


def missing_numbers(schema: Schema, statistics: Statistics) -> dict[str, int]:
    """Number of missing values of each column that has some, except categories: there, missing is a category. A missing
    sequence is one without tokens."""
    if schema.tokens:
        return {}
    counts = zip(channel_names(schema), statistics.missing, strict=False)
    return {name: count for name, count in counts if count and name not in schema.categories}


def has_columns(schema: Schema) -> bool:
    """Whether each channel is a column: of vectors, and of windows over rows."""
    return len(schema.sample_shape) == 1 or schema.windows is not None


def channel_names(schema: Schema) -> tuple[str, ...]:
    """The names of the channels: column names for vectors and windows, otherwise channel numbers."""
    named = has_columns(schema) and schema.features
    return schema.features if named else tuple(map(str, range(schema.sample_shape[0])))


def group_columns(schema: Schema, inputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The columns of each of several inputs, see `assign_columns`. Raises UsageError, also for data without columns."""
    if inputs and schema.windows:
        raise UsageError("--input: the samples are windows, which models take as one tensor; remove the option")
    if inputs and len(schema.sample_shape) != 1:
        raise UsageError(f"--input: samples of shape {schema.sample_shape} have no columns; remove the option")
    if is_image_alone(inputs):
        raise UsageError("--input image: the samples are no images; name columns, as in --input NAME=COLUMNS")
    return assign_columns(channel_names(schema), inputs) if inputs else {}


def plan_inputs(
    schema: Schema,
    statistics: Statistics,
    missing: str = "mean",
    normalize: Sequence[str] = (),
    codes: bool = False,
    inputs: Sequence[str] = (),
) -> Inputs:
    """Plan the inputs of a model from the statistics of its training rows.

    `missing` is a strategy as `parse_fill` reads it, `normalize` are scalings as `parse_scaling` does. With `codes`,
    the model takes categories as codes; otherwise they become an input for each value, or if there are too many, a
    number. `inputs` are several inputs as `parse_input` reads them. Of an image and the columns beside it, they and
    `missing` concern the columns, as the scalings that name one do.

    Raises UsageError for options that do not match the data.
    """
    if schema.image:
        return _plan_image(schema, statistics, missing, normalize, codes, inputs)
    if schema.tokens:
        return _plan_tokens(schema, schema.tokens, missing, normalize, inputs)
    fill, names, named = parse_fill(missing), channel_names(schema), has_columns(schema)
    codes = codes and not schema.windows  # whose channels are all numbers
    if fill.marked and not named:
        raise UsageError(
            f"--missing {missing} adds inputs, which is not possible for samples of shape {schema.sample_shape}; use "
            "mean, median or constant=NUMBER"
        )
    places = {name: place for place, name in enumerate(names)}
    coded = {places[name]: len(values) + 1 for name, values in schema.categories.items() if name in places}
    one_hot = {} if codes else {channel: count for channel, count in coded.items() if count <= ONE_HOT_VALUES + 1}
    center, scale = scale_channels(schema, statistics, normalize, set(coded if codes else one_hot))
    kept = tuple(channel for channel in range(len(names)) if channel not in one_hot)
    gaps = statistics.missing or (0,) * len(names)
    marked = tuple(channel for channel in kept if fill.marked and gaps[channel] and channel not in coded)
    hot = [channel for channel, count in one_hot.items() for _ in range(count)]
    columns = [_column(schema, names[channel]) for channel in kept] if named else []
    columns += [InputColumn(names[channel], "number") for channel in hot] if schema.windows else []
    columns += [InputColumn(names[channel], "missing") for channel in marked]
    codes_at = {place for place, channel in enumerate(kept) if channel in coded} if codes else set[int]()
    members = group_columns(schema, inputs)
    groups = _grouped([names[channel] for channel in (*kept, *hot, *marked)], codes_at, members)
    by_input = {name: tuple(columns[place] for place in group.places) for name, group in groups.items() if codes}
    return Inputs(
        tuple(center.tolist()),
        tuple(scale.tolist()),
        tuple(((_fill_values(fill, statistics) - center) * scale).tolist()),
        kept,
        tuple(one_hot.items()),
        marked,
        (len(kept) + len(hot) + len(marked), *schema.sample_shape[1:]) if named else schema.sample_shape,
        InputSchema(tuple(columns), schema.task, schema.labels, schema.classes, by_input),
        groups,
        windows=schema.windows is not None,
    )


def _plan_tokens(
    schema: Schema, tokens: TokenForm, missing: str, normalize: Sequence[str], inputs: Sequence[str]
) -> Inputs:
    """Plan the input of a model for sequences of token ids, which stay as they are; see `plan_inputs`."""
    given = {"--missing": missing != "mean", "--normalize": bool(normalize), "--input": bool(inputs)}
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise UsageError(f"{wrong[0]}: samples are sequences of token ids, which stay as they are; remove the option")
    meaning = InputSchema((), schema.task, schema.labels, schema.classes, vocabulary=tokens.vocabulary)
    return Inputs((), (), (), (), (), (), schema.sample_shape, meaning)


def _plan_image(
    schema: Schema,
    statistics: Statistics,
    missing: str,
    normalize: Sequence[str],
    codes: bool,
    inputs: Sequence[str],
) -> Inputs:
    """Plan the inputs of a model for images, and the columns beside them if there are any; see `plan_inputs`."""
    image = replace(schema, image=None, table=None)
    if schema.table is None or is_image_alone(inputs):
        fill, others = ("mean", ()) if is_image_alone(inputs) else (missing, inputs)
        return plan_inputs(image, statistics, fill, normalize, codes, others)
    of_image = [text for text in normalize if parse_scaling(text)[0] in (None, *channel_names(image))]
    of_table = [text for text in normalize if text not in of_image]
    plan = plan_inputs(image, statistics, normalize=of_image)
    table = plan_inputs(schema.table, statistics.tabular, missing, of_table, codes, inputs)
    if IMAGE in table.groups:
        raise UsageError(f"--input {IMAGE}=…: this is the name of the image itself; choose another one")
    columns = by_name(table.schema.inputs or table.schema.columns)
    meaning = replace(plan.schema, columns=table.schema.columns, inputs={IMAGE: (), **columns} if codes else {})
    return replace(plan, schema=meaning, table=table)


def _grouped(columns: Sequence[str], coded: Set[int], groups: Mapping[str, Sequence[str]]) -> dict[str, InputGroup]:
    """Each of several inputs as places in the vector of all, whose `columns` and places of codes are given."""
    places = {
        name: tuple(place for place, column in enumerate(columns) if column in members)
        for name, members in groups.items()
    }
    return {name: InputGroup(of_group, coded >= set(of_group)) for name, of_group in places.items()}


def _fill_values(fill: Fill, statistics: Statistics) -> np.ndarray:
    """The fill value of each channel, (channels,) float64. Medians are not computed if no value is missing."""
    if fill.value == "median" and statistics.median:
        return np.array(statistics.median)
    return np.array(statistics.mean) if isinstance(fill.value, str) else np.full(len(statistics.mean), fill.value)


def _column(schema: Schema, name: str) -> InputColumn:
    if name in schema.categories and not schema.windows:
        return InputColumn(name, "category", len(schema.categories[name]) + 1)
    return InputColumn(name, "date" if name in schema.dates else "number")


def scale_channels(
    schema: Schema, statistics: Statistics, normalize: Sequence[str], raw: Set[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The center and the scale of each channel, (channels,) float64. Channels in `raw` are unchanged.

    A channel that is constant in the training rows, apart from rounding, gets the scale 0, because nothing can be
    learned from it. Raises UsageError for a column that does not exist, and for invalid scalings.
    """
    names = channel_names(schema)
    center, factor = _standardized(statistics)
    for column, how in sorted(map(parse_scaling, normalize), key=lambda entry: entry[0] is not None):
        if column is not None and column not in names:
            raise UsageError(
                f"--normalize {column}=…: the dataset has no feature '{column}'{suggest(column, names)}; use the name "
                "of a feature"
            )
        chosen = np.array([column is None or name == column for name in names])
        new_center, new_factor = _scaled(how, schema, statistics)
        if len(np.atleast_1d(new_center)) not in (1, len(names)):
            raise UsageError(
                f"--normalize: {len(new_center)} means do not match {len(names)} channels; use one, or one per channel"
            )
        center, factor = np.where(chosen, new_center, center), np.where(chosen, new_factor, factor)
    center[list(raw)], factor[list(raw)] = 0.0, 1.0
    return center, factor


def _standardized(statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    mean, std = np.array(statistics.mean), np.array(statistics.std)
    return mean, _inverse(std, np.abs(mean))


def _inverse(spread: np.ndarray, size: np.ndarray) -> np.ndarray:
    """1 / `spread`, or 0 where the spread is only rounding of numbers of this size."""
    known = varies(spread, size)
    return np.where(known, 1 / np.where(known, spread, 1), 0.0)


def varies(spread: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Whether the `spread` of numbers of this size is more than rounding; same shape, bool."""
    return np.asarray(spread > ROUNDING * size)


def _scaled(how: Scaling, schema: Schema, statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    """The centers and scales of a scaling, one per channel or one for all."""
    if how == "standard":
        return _standardized(statistics)
    if how == "minmax":
        low, high = np.array(statistics.minimum), np.array(statistics.maximum)
        return low, _inverse(high - low, np.maximum(np.abs(low), np.abs(high)))
    if how == "none":
        return np.zeros(1), np.ones(1)
    unit = 1.0
    if how == "imagenet":
        kind = np.dtype(schema.x_dtype)
        how, unit = IMAGENET, float(np.iinfo(kind).max) if kind.kind in "iu" else 1.0
    assert not isinstance(how, str)
    means, scales = how
    return np.array(means) * unit, 1 / (np.array(scales) * unit)


def describe_inputs(
    schema: Schema, statistics: Statistics, missing: str, codes: bool, inputs: Sequence[str] = ()
) -> dict[str, str]:
    """What the user should know of a model's inputs, as a heading and a sentence each. `statistics` are of all rows."""
    notes, of_image = dict[str, str](), [IMAGE] if schema.table else []
    if is_image_alone(inputs):
        return notes
    if schema.tokens:
        longest, mean = schema.sample_shape[0], statistics.mean[0]
        notes["sequences"] = (
            f"{mean:,.1f} token ids on average, at most {longest:,}, of a vocabulary of {schema.tokens.vocabulary:,}; "
            "each batch has rows of similar length, and is padded with 0"
        )
        return notes
    schema, statistics = schema.tabular, statistics.tabular
    if gaps := missing_numbers(schema, statistics):
        fill = parse_fill(missing)
        what = "a constant" if isinstance(fill.value, float) else f"the {fill.value} of each fold's training rows"
        how = f"filled with {what}" + (", with an indicator input for each column" if fill.marked else "")
        notes["missing values"] = f"{sum(gaps.values()):,} in {_listed(gaps)}: {how} (--missing)"
    large = [name for name, values in schema.categories.items() if len(values) > ONE_HOT_VALUES]
    if large and not codes:
        notes["categories"] = (
            f"{_listed(large)}: more than {ONE_HOT_VALUES} values, so the model gets their codes as numbers; to treat "
            "them as categories, use mlp or a model factory with a 'schema' parameter"
        )
    groups = group_columns(schema, inputs) or ({TABLE: schema.features} if of_image else {})
    if groups:
        notes["inputs"] = "; ".join([*of_image, *(f"{name}: {_listed(columns)}" for name, columns in groups.items())])
    return notes


def _listed(names: Collection[str]) -> str:
    """The first few column names."""
    shown = ", ".join(list(names)[:5])
    return f"{shown} and {len(names) - 5} more columns" if len(names) > 5 else shown
