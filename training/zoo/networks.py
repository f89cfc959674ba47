"""The built-in networks: factories `(sample_shape, outputs, **settings) -> Module`. The modules return logits."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from ...storage.errors import UsageError
from ..fitted.inputs import InputSchema


class SamePad(nn.Module):
    """Pads images with zeros so that a convolution returns ceil(size / stride) pixels ("same" padding).

    If the padding is odd, the extra pixel goes to the right and to the bottom.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max(0, (math.ceil(size / self.stride) - 1) * self.stride + self.kernel - size)
            pads += [total // 2, total - total // 2]
        return nn.functional.pad(x, pads)


def require_images(sample_shape: tuple[int, ...], name: str) -> None:
    """Raise UsageError unless a sample is (channels, height, width)."""
    if len(sample_shape) != 3:
        raise UsageError(
            f"--model {name} requires images (channels, height, width), but samples have shape {sample_shape}; "
            "convert with --shape (e.g. --shape 1,28,28), or use --model mlp"
        )


class RandomShift(nn.Module):
    """Shifts images by up to `pixels` in each direction during training, and replicates the border.

    The rows of a batch are shifted in `groups` groups, each by one random offset. This regularizes as well as an offset
    per row, and costs nothing.
    """

    def __init__(self, pixels: int, groups: int = 4) -> None:
        super().__init__()
        self.pixels, self.groups = pixels, groups

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.pixels:
            return x
        height, width = x.shape[-2:]
        padded = nn.functional.pad(x, [self.pixels] * 4, mode="replicate")
        parts = torch.chunk(padded, self.groups)
        offsets = torch.randint(0, 2 * self.pixels + 1, (len(parts), 2), device=x.device)
        shift = _slices if x.device.type == "cpu" and not is_batchedtensor(offsets) else _selections
        return torch.cat([shift(part, offset, height, width) for part, offset in zip(parts, offsets, strict=True)])


def _slices(padded: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """The part of images that begins at an offset (top, left): the fastest way on the CPU, where its value is known."""
    top, left = offset.tolist()
    return padded[:, :, top : top + height, left : left + width]


def _selections(padded: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """The same without the offset's value: a GPU is not waited for, and models that are stacked have one each."""
    rows, columns = (torch.arange(size, device=padded.device) for size in (height, width))
    return padded.index_select(2, offset[0] + rows).index_select(3, offset[1] + columns)


def digits_cnn(
    sample_shape: tuple[int, ...], outputs: int, dropout: float = 0.25, shift: int = 1, hidden: int = 128
) -> nn.Module:
    """Two 5×5 convolutions with 16 and 32 channels, each with max pooling and batch norm, then two linear layers.

    Training images are shifted by up to `shift` pixels. Images must be at least 16×16.
    """
    require_images(sample_shape, "digits-cnn")
    channels, height, width = sample_shape
    after = [((size - 4) // 2 - 4) // 2 for size in (height, width)]
    if min(after) < 1:
        raise UsageError(
            f"--model digits-cnn requires images of at least 16×16, but these are {height}×{width}; use --model mlp"
        )
    model = nn.Sequential(
        RandomShift(shift),
        nn.Conv2d(channels, 16, 5, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32 * math.prod(after), hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, outputs),
    )
    # In the channels-last memory format, a training step on the CPU takes two thirds of the time.
    return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


class Embeddings(nn.Module):
    """Replaces the codes of categories by vectors that are learned: (rows, columns) to (rows, `width`).

    A category of n values gets min(64, n, 1.6 · n^0.56) numbers, rounded, by fastai's rule of thumb; the last code, of
    unknown values, stays a vector of zeros.
    """

    def __init__(self, schema: InputSchema) -> None:
        super().__init__()
        kinds = [column.kind for column in schema.columns]
        self.numbers = [at for at, kind in enumerate(kinds) if kind != "category"]
        self.categories = [at for at, kind in enumerate(kinds) if kind == "category"]
        counts = [schema.columns[at].values for at in self.categories]
        sizes = [min(64, count, round(1.6 * count**0.56)) for count in counts]
        self.tables = nn.ModuleList(
            nn.Embedding(count, size, padding_idx=count - 1) for count, size in zip(counts, sizes, strict=True)
        )
        self.width = len(self.numbers) + sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        vectors = [table(x[:, at].long()) for at, table in zip(self.categories, self.tables, strict=True)]
        return torch.cat([x[:, self.numbers], *vectors], dim=1)


def mlp(
    sample_shape: tuple[int, ...],
    outputs: int,
    schema: InputSchema | None = None,
    hidden: int = 256,
    layers: int = 2,
    dropout: float = 0.1,
) -> nn.Module:
    """A multilayer perceptron over the flattened sample, with an embedding of each category."""
    coded = schema and any(column.kind == "category" for column in schema.columns)
    first = Embeddings(schema) if schema and coded else nn.Flatten()
    widths = [first.width if isinstance(first, Embeddings) else math.prod(sample_shape), *[hidden] * layers]
    parts: list[nn.Module] = [first]
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs))


class ArticleCNN(nn.Sequential):
    """The network of the tutorial that Foldstream grew out of.

    Convolutions 6@6×6, 12@5×5 and 24@4×4 (strides 1, 2, 2, "same" padding), each with ReLU, L2 regularization and
    local response normalization; then linear layers of 128 and 256 units with tanh and dropout (keep probability 0.8);
    then the output layer.
    """

    def __init__(self, sample_shape: tuple[int, ...], outputs: int, keep: float = 0.8) -> None:
        require_images(sample_shape, "article-cnn")
        channels, height, width = sample_shape
        parts: list[nn.Module] = []
        for kernel, wide, stride in ((6, 6, 1), (5, 12, 2), (4, 24, 2)):
            # TFLearn applies alpha = 0.0001 to each of the 11 neighbors; torch divides alpha by their number.
            norm = nn.LocalResponseNorm(size=11, alpha=0.0001 * 11, beta=0.75, k=1.0)
            parts += [SamePad(kernel, stride), nn.Conv2d(channels, wide, kernel, stride), nn.ReLU(), norm]
            channels, height, width = wide, math.ceil(height / stride), math.ceil(width / stride)
        parts += [nn.Flatten(), nn.Linear(channels * height * width, 128), nn.Tanh(), nn.Dropout(1 - keep)]
        parts += [nn.Linear(128, 256), nn.Tanh(), nn.Dropout(1 - keep), nn.Linear(256, outputs)]
        super().__init__(*parts)

    def decayed_parameters(self) -> Iterator[Tensor]:
        """Weight decay applies to the convolutions only."""
        return (layer.weight for layer in self if isinstance(layer, nn.Conv2d))
