"""The figures of the GPU benchmark as JSON."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pace(Strict):
    """One loader in front of one model."""

    samples_per_second: float
    bytes_per_second: float
    of_ceiling: float
    """The samples per second, relative to those with the same batch resident on the device."""
    utilization: float
    """As MLPerf Storage defines it: the time that the steps take alone, over the total, without the first step."""
    waiting: float
    """The share of the time for which the training loop waited for a batch."""
    p99_over_median: float
    """Of the time of a step."""
    cores: float
    """Seconds of CPU time per second, of all processes."""
    first_batch_seconds: float


class LoadFigures(Strict):
    rows: int
    row_bytes: int
    batch: int
    steps: int
    loaders: dict[str, Pace]


class FoldFigures(Strict):
    """Five folds of a small network: seconds of an epoch of all folds, by fold mode."""

    rows: int
    epoch_seconds: dict[str, float]
    speedup: dict[str, float]
    """Relative to separate runs."""


class GpuFigures(Strict):
    card: str
    machine: str
    torch: str
    rehearsal: bool
    loads: dict[str, LoadFigures]
    folds: FoldFigures
    failed: dict[str, str]
    """What could not be measured, and why."""
