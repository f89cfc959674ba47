"""Options for the conversion of images."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...storage.options import Cli, Location, Options, Texts
from ..csv.options import CsvOptions
from ..target.options import TASK, OnError, RoleOptions, Seed, Task, parse_numbers


def parse_size(value: Any) -> Any:
    """Parse `64`, `64x64` or `48,64` as (height, width). Raises ValueError, also for `48x64`, whose order differs among
    tools."""
    if isinstance(value, str) and (sides := re.fullmatch(r"(\d+)\s*[xX×]\s*(\d+)", value)):
        one, other = sides.groups()
        if one != other:
            raise ValueError(f"may be width or height first; write height and width as {one},{other} or {other},{one}")
        value = one
    numbers = parse_numbers((value,) if isinstance(value, int) else value)
    if isinstance(numbers, tuple):
        if len(numbers) > 2:
            raise ValueError("must be a single number, or height and width, e.g. 48,64")
        return (numbers[0], numbers[-1])
    return numbers


def parse_seed(value: Any) -> Any:
    """Parse a seed, or `none`. Raises ValueError."""
    if isinstance(value, str):
        if value != "none" and not value.isdecimal():
            raise ValueError("must be a whole number, or none")
        return None if value == "none" else int(value)
    return value


def parse_values(value: Any) -> Any:
    """Parse `255`, `0,255` or a list as different whole numbers, in ascending order. Raises ValueError."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    try:
        numbers = {int(part) for part in parts}
    except (TypeError, ValueError):
        raise ValueError("must be whole numbers separated by commas, e.g. 255") from None
    return tuple(sorted(numbers))


def parse_range(value: Any) -> Any:
    """Parse `0,4095` as two numbers. Raises ValueError."""
    if value is None:
        return None
    try:
        limits = tuple(map(float, value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        limits = ()
    if len(limits) != 2 or not -math.inf < limits[0] < limits[1] < math.inf:
        raise ValueError("must be two numbers, the lower one first, e.g. 0,4095")
    return limits


def check_pattern(text: str | None) -> str | None:
    """Raise ValueError for a regular expression that is invalid or has no group."""
    try:
        if text is not None and not re.compile(text).groups:
            raise ValueError("needs a group in parentheses, which matches the class, e.g. '^([a-z]+)_'")
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return text


class ImageOptions(RoleOptions):
    """How image files are converted. Columns with a role are those of `labels`."""

    panel: ClassVar[str] = Options.panel

    size: Annotated[int | tuple[int, ...] | list[int] | None, BeforeValidator(parse_size), Cli(metavar="N|H,W")] = (
        Field(
            default=None,
            description="Size of a sample, e.g. 64, or 48,64 for height and width; by default that of small images "
            "which all have one size, otherwise at most 64.",
        )
    )
    color: Literal["rgb", "gray"] = Field(default="rgb", description="Color of a sample: rgb or gray.")
    fit: Literal["pad", "crop", "stretch"] = Field(
        default="pad", description="How to fit images of another aspect ratio: pad, crop to the center, or stretch."
    )
    background: Literal["white", "black"] = Field(
        default="white", description="Color of the padding and of the background of transparent pixels: white or black."
    )
    dtype: Literal["uint8", "uint16"] = Field(
        default="uint8", description="Pixel type: uint8, or uint16 to keep images with 16 bits."
    )
    pixel_range: Annotated[
        tuple[float, ...] | list[float] | None, BeforeValidator(parse_range), Cli(metavar="LOW,HIGH")
    ] = Field(
        default=None,
        description="Values that become black and white in images with more than 8 bits, e.g. 0,4095 or -1024,3071.",
    )
    encoded: bool = Field(
        default=False,
        description="Store the image files instead of their pixels, and decode them whenever they are read: less "
        "space, slower.",
    )
    strict: bool = Field(
        default=False,
        description="Treat an image as invalid if part of it would be lost: if it has several pages or frames, or more "
        "bits than --dtype.",
    )
    labels: Location | None = Field(
        default=None,
        description="Table with image paths and labels (CSV, Parquet, Arrow, JSON lines); by default, folders are "
        "classes.",
    )
    label_pattern: Annotated[str | None, AfterValidator(check_pattern), Cli(metavar="REGEX")] = Field(
        default=None,
        description="Regular expression whose group is the class in a file's name, e.g. '^([a-z]+)_'; several named "
        "groups are several labels.",
    )
    label: Texts = Field(
        default=(),
        description="Label column in the --labels file, by default the first after the path, or field in the .json "
        "files of a WebDataset shard; repeatable for several regression targets or 0/1 labels.",
    )
    feature: Texts = Field(
        default=(), description="Column of the --labels file that models get beside the image, e.g. age; repeatable."
    )
    category: Texts = Field(
        default=(), description="The same for a category whose values may be numbers, e.g. a site; repeatable."
    )
    masks: Location | None = Field(
        default=None,
        description="Folder or archive of masks, which are the targets instead of labels: each has the path of its "
        "image, with any suffix, and its pixel values are the classes.",
    )
    mask_ignore: Annotated[
        int | tuple[int, ...] | list[int] | None, BeforeValidator(parse_values), Cli(metavar="N,N")
    ] = Field(default=None, description="Pixel values of masks that do not count, e.g. 255 for borders.")
    targets: Location | None = Field(
        default=None,
        description="Folder or archive of images that are the targets, e.g. sharp ones of blurred images: each has the "
        "path of its image, with any suffix.",
    )
    split_folders: bool = Field(
        default=False,
        description="Take folders named train, val or test as folds, not classes: those in train are never held out.",
    )
    task: Task = Field(default="auto", description=TASK)
    on_error: OnError = Field(
        default="stop",
        description="stop: stop at the first image that cannot be decoded; skip: skip and list such images.",
    )
    shuffle: Annotated[Seed | None, BeforeValidator(parse_seed), Cli(metavar="SEED", text=True)] = Field(
        default=0, description="Seed for shuffling the images; none: keep them sorted by path."
    )
    csv: Annotated[CsvOptions | Mapping[str, Any], BeforeValidator(CsvOptions.model_validate)] = Field(
        default=CsvOptions()
    )
