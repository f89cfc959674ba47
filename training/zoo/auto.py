"""What a training uses where its options leave it open: a built-in model that fits the data, and batches and epochs
that fit the number of rows. It follows from metadata, and a run records it, so that these rules may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..fitted.strategies import is_image_alone

if TYPE_CHECKING:
    from ...storage.format.schema import Schema  # which loads numpy, for which --help would wait

AUTO = "auto"
CHOSEN = "wide-deep", "digits-cnn", "resnet", "deep-averaging", "nlinear", "unet", "mlp"
"""The models among which `auto` chooses."""
SMALL_IMAGE = range(16, 49)
"""Heights and widths of images for which `digits-cnn` is made."""


class Length(NamedTuple):
    """How long a training takes: the rows of a batch, and the passes over the training rows."""

    batch_size: int
    epochs: int


class LengthRule(NamedTuple):
    """Batches of a power of two near 1/16 of the rows, within limits, and as many epochs as make a number of updates,
    within others: many rows are learned in a few passes."""

    smallest_batch: int
    largest_batch: int
    updates: int
    fewest_epochs: int
    most_epochs: int

    def length_for(self, rows: int) -> Length:
        """The length of a training on so many rows."""
        near = 1 << round(math.log2(max(1, rows / 16)))
        batch = min(self.largest_batch, max(self.smallest_batch, near))
        epochs = math.ceil(self.updates * batch / max(1, rows))
        return Length(batch, min(self.most_epochs, max(self.fewest_epochs, epochs)))


USUAL_LENGTH = Length(batch_size=128, epochs=10)
LENGTH_RULES = {
    "wide-deep": LengthRule(16, 1024, 1000, 2, 20),
    "resnet": LengthRule(16, 64, 2000, 10, 40),
    "nlinear": LengthRule(16, 256, 2000, 4, 40),
    "unet": LengthRule(8, 32, 2000, 10, 40),
}
"""How long the models train whose length depends on the rows; all others train for the usual length."""


def choose_model(schema: Schema, inputs: Sequence[str] = ()) -> str:
    """The built-in model for data with this schema: `wide-deep` for columns, `digits-cnn` for small images, `resnet`
    for others and for images with columns beside them, `deep-averaging` for sequences of token ids, `nlinear` for
    windows over time series, `unet` if the targets are masks or images, `mlp` for samples of any other shape. `inputs`
    are those of `--input`."""
    shape = schema.sample_shape
    if schema.tokens:
        return "deep-averaging"
    if schema.windows:
        return "nlinear"
    if schema.target_name:
        return "unet"
    if len(shape) == 1:
        return "wide-deep"
    if len(shape) != 3:
        return "mlp"
    beside = schema.table and not is_image_alone(inputs)
    return "digits-cnn" if not beside and all(size in SMALL_IMAGE for size in shape[1:]) else "resnet"


def usual_length(model: str, rows: int) -> Length:
    """How long a model is trained on so many rows if no option says so."""
    rule = LENGTH_RULES.get(model)
    return rule.length_for(rows) if rule else USUAL_LENGTH
