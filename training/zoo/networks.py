"""The built-in networks: factories `(sample_shape, outputs, **settings) -> Module`. The modules return logits."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor

from ...storage.errors import UsageError
from ...storage.format.arrays import IMAGE, TABLE
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
    first, width = embed(sample_shape, schema)
    return nn.Sequential(first, *perceptron(width, outputs, hidden, layers, dropout))


def embed(sample_shape: tuple[int, ...], schema: InputSchema | None) -> tuple[nn.Module, int]:
    """What makes a vector of numbers of a sample, and its length: categories are embedded, if there are any."""
    if schema and any(column.kind == "category" for column in schema.columns):
        embeddings = Embeddings(schema)
        return embeddings, embeddings.width
    return nn.Flatten(), math.prod(sample_shape)


def perceptron(width: int, outputs: int, hidden: int, layers: int, dropout: float) -> list[nn.Module]:
    """The layers of a multilayer perceptron."""
    parts: list[nn.Module] = []
    for before, after in pairwise([width, *[hidden] * layers]):
        parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return [*parts, nn.Linear(hidden if layers else width, outputs)]


class WideDeep(nn.Module):
    """A linear model and a multilayer perceptron over the same columns, whose outputs are added: wide & deep learning
    (Cheng et al. 2016, arXiv:1606.07792), here with embeddings of categories in both.

    The linear part finds what a logistic or ridge regression does, from few rows too; the perceptron adds what is not
    linear. Its last layer starts at zero, so that it adds nothing at first.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        outputs: int,
        schema: InputSchema | None = None,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embed, width = embed(sample_shape, schema)
        self.wide = nn.Linear(width, outputs)
        self.deep = nn.Sequential(*perceptron(width, outputs, hidden, layers, dropout))
        nn.init.zeros_(self.deep[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.deep[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        vector = self.embed(x)
        total: Tensor = self.wide(vector) + self.deep(vector)
        return total


class DeepAveraging(nn.Module):
    """A deep averaging network (Iyyer et al. 2015): the mean of the embeddings of a sequence's token ids, then a
    multilayer perceptron.

    The embedding of 0, which is padding, stays zero and is not part of the mean. In training, each token is left out of
    the mean with the probability `word_dropout`.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        outputs: int,
        schema: InputSchema,
        width: int = 128,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.3,
        word_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(schema.vocabulary, width, padding_idx=0)
        self.word_dropout = word_dropout
        self.last = nn.Sequential(*perceptron(width, outputs, hidden, layers, dropout))

    def forward(self, x: Tensor) -> Tensor:
        used = x != 0
        if self.training and self.word_dropout:
            used = used & (torch.rand(x.shape, device=x.device) >= self.word_dropout)
        weights = used.to(self.embed.weight.dtype)
        # A product of matrices: the sum over a sequence of its weighted embeddings, without a copy of them.
        total = torch.einsum("rt,rtw->rw", weights, self.embed(x))
        found: Tensor = self.last(total / weights.sum(dim=1, keepdim=True).clamp(min=1))
        return found


class NLinear(nn.Module):
    """A linear forecast from a window of a time series, relative to its last value: NLinear (Zeng et al. 2023,
    arXiv:2205.13504), here with further channels beside that of the target, which is the first one.

    The weights start at zero: the first forecast is the last value, repeated.
    """

    def __init__(self, sample_shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        if len(sample_shape) != 2:
            raise UsageError(
                f"--model nlinear requires windows over time series (columns, rows), but samples have shape "
                f"{sample_shape}; convert with --window-of, or use another model"
            )
        self.linear = nn.Linear(math.prod(sample_shape), outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        last = x[:, :1, -1:]
        window = torch.cat([x[:, :1] - last, x[:, 1:]], dim=1)
        forecast: Tensor = last[:, :, 0] + self.linear(window.flatten(1))
        return forecast


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, whose output is added to the input (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        same = stride == 1 and channels == width
        self.keep = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.keep(x) + self.change(x))


class ResNet(nn.Module):
    """A small residual network for images of any size, and for the columns beside them.

    A 5×5 convolution, three residual blocks of `width`, 2 · `width` and 4 · `width` channels, and the mean over all
    pixels. Images with a side of more than 24 pixels are halved at once, and those of more than 48 once more. Training
    images are shifted by up to 1/16 of their size. Columns are embedded and standardized as for `wide-deep`, and follow
    the means of the pixels through a hidden layer.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
        outputs: int,
        schema: InputSchema | None = None,
        width: int = 32,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        shapes = sample_shape if isinstance(sample_shape, dict) else {IMAGE: sample_shape}
        require_images(shapes[IMAGE], "resnet")
        channels, *sizes = shapes[IMAGE]
        stem = nn.Conv2d(channels, width, 5, 2 if max(sizes) > 24 else 1, padding=2, bias=False)
        blocks = [ResidualBlock(before, after, 1 + (after > width)) for before, after in widths_of(width)]
        self.image = nn.Sequential(
            RandomShift(max(sizes) // 16),
            stem,
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True) if max(sizes) > 48 else nn.Identity(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.embed: nn.Module | None = None
        beside = 0
        if TABLE in shapes:
            self.embed, beside = embed(shapes[TABLE], schema)
        last = perceptron(4 * width + beside, outputs, 4 * width, int(bool(beside)), dropout)
        self.last = nn.Sequential(nn.Dropout(dropout), *last)

    def forward(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        if not isinstance(x, dict):
            found: Tensor = self.last(self.image(x))
            return found
        assert self.embed is not None
        both: Tensor = self.last(torch.cat([self.image(x[IMAGE]), self.embed(x[TABLE])], dim=1))
        return both


def widths_of(width: int) -> list[tuple[int, int]]:
    """The channels before and after each residual block."""
    return [(width, width), (width, 2 * width), (2 * width, 4 * width)]


class UNet(nn.Module):
    """A small U-Net for masks of images of any size (Ronneberger et al. 2015, arXiv:1505.04597), with residual blocks.

    `levels` times, blocks of `width`, 2 · `width`, … channels are followed by max pooling, as far as the image has
    pixels; on the way back, each level is enlarged by a transposed convolution, and joined with what came before its
    pooling. The result, (rows, outputs, height, width), has the size of the image.
    """

    def __init__(
        self, sample_shape: tuple[int, ...], outputs: int, width: int = 16, levels: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        require_images(sample_shape, "unet")
        channels, *sizes = sample_shape
        levels = min(levels, max(0, min(sizes).bit_length() - 1))
        widths = [width << level for level in range(levels + 1)]
        before = [channels, *widths]
        self.down = nn.ModuleList(ResidualBlock(one, two, 1) for one, two in pairwise(before))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * one, one, 2, 2) for one in widths[:-1])
        self.join = nn.ModuleList(ResidualBlock(2 * one, one, 1) for one in widths[:-1])
        self.last = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, outputs, 1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = []
        for number, block in enumerate(self.down):
            x = block(self.pool(x) if number else x)
            levels.append(x)
        for up, join, beside in zip(reversed(self.up), reversed(self.join), reversed(levels[:-1]), strict=True):
            enlarged = up(x)[..., : beside.shape[-2], : beside.shape[-1]]  # a side that was odd is one pixel shorter
            x = join(torch.cat([enlarged, beside], dim=1))
        found: Tensor = self.last(x)
        return found


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
