"""Options of adopting arrays where they are."""

import warnings
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from ...storage.options import Cli, Files, Options, Texts
from ..target.options import TASK, RoleOptions, Task, parse_numbers

warnings.filterwarnings("ignore", 'Field name "copy" in "AdoptOptions" shadows an attribute', UserWarning)


class AdoptOptions(RoleOptions):
    """What is adopted, and how."""

    panel: ClassVar[str] = Options.panel

    x: Annotated[Texts, Cli(metavar="PATH", repeatable=True)] = Field(
        default=(),
        description="Array of the features: a path in a Zarr or HDF5 file, a member of an NPZ archive, a variable, or "
        "a column of lists; repeatable for columns of numbers, also as a pattern such as 'pixel*'. By default what the "
        "format says, or the only array.",
    )
    y: Annotated[Files, Cli(metavar="PATH", repeatable=True)] = Field(
        default=(),
        description="Label: an array or a column in the same place, another file, or FILE:PATH; repeatable for several "
        "targets. Omit it for rows to predict.",
    )
    id: Annotated[str | None, Cli(metavar="PATH")] = Field(
        default=None, description="Column that identifies the rows; stored, but not used as a feature."
    )
    sample_dim: Annotated[str | None, Cli(metavar="NAME|AXIS")] = Field(
        default=None, description="Dimension of the samples, e.g. time; by default the first one."
    )
    shape: Annotated[Sequence[int] | None, BeforeValidator(parse_numbers), Cli(metavar="N,N,N")] = Field(
        default=None, description="Shape of a sample, e.g. 1,28,28; by default that of the stored ones."
    )
    task: Task = Field(default="auto", description=TASK)
    copy: bool = Field(  # type: ignore[assignment]  # pydantic's own method of this name is deprecated
        default=False,
        description="Copy the features into the dataset too, where their chunks make reading slow or cannot be read in "
        "place.",
    )
    hash: bool = Field(
        default=False,
        description="Store the SHA-256 of every file, by which 'foldstream verify' finds changes; without it, files "
        "are recognized by their sizes and times.",
    )
