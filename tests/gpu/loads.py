"""What the GPU benchmark trains: a ResNet-50, a 3D U-Net, and an MLP on a table, each with data made here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..datasets import MakeRows


class Bottleneck(nn.Module):
    """A residual block of ResNet-50 (He et al. 2016), with the stride in the 3×3 convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            *_convolution(channels, width, 1, 1), nn.ReLU(True),
            *_convolution(width, width, 3, stride), nn.ReLU(True),
            *_convolution(width, out, 1, 1),
        )  # fmt: skip
        same = channels == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(channels, out, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def _convolution(channels: int, out: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(out)


def resnet50(outputs: int = 1000) -> nn.Module:
    """ResNet-50: 25.6 million parameters."""
    blocks: list[nn.Module] = []
    channels = 64
    for depth, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for number in range(depth):
            blocks.append(Bottleneck(channels, width, stride if number == 0 else 1))
            channels = 4 * width
    stem = [*_convolution(3, 64, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


class UNet3d(nn.Module):
    """A 3D U-Net (Çiçek et al. 2016) of three levels, which classifies the whole crop."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        inner = [1, *widths]
        self.down = nn.ModuleList(self._level(a, b) for a, b in zip(inner[:-1], widths, strict=True))
        self.up = nn.ModuleList(self._level(b + a, a) for a, b in pairwise(widths))
        self.head = nn.Linear(width, outputs)

    @staticmethod
    def _level(channels: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv3d(channels, out, 3, padding=1), nn.InstanceNorm3d(out), nn.ReLU(True))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for number, level in enumerate(self.down):
            x = level(functional.max_pool3d(x, 2) if number else x)
            kept.append(x)
        for level, beside in zip(reversed(self.up), reversed(kept[:-1]), strict=True):
            x = level(torch.cat([functional.interpolate(x, scale_factor=2), beside], dim=1))
        logits: Tensor = self.head(x.mean(dim=(2, 3, 4)))
        return logits


def table_mlp(columns: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


@dataclass(frozen=True)
class Load:
    """Data of `rows` rows, and a model that is trained on batches of `batch` rows for `steps` steps."""

    name: str
    rows: int
    batch: int
    steps: int
    make: MakeRows
    model: Callable[[], nn.Module]
    channels_last: bool = False

    @property
    def row_bytes(self) -> int:
        return int(self.make(0, 1)[0].nbytes)


def noise(*shape: int) -> MakeRows:
    """Random bytes of a shape, which no codec makes smaller, and random classes."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        draws = np.random.default_rng(start)
        x = np.frombuffer(draws.bytes((stop - start) * int(np.prod(shape))), np.uint8).reshape(-1, *shape)
        return x, draws.integers(0, 10, stop - start)

    return make


def numbers(columns: int) -> MakeRows:
    """Normal random float32 numbers."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        draws = np.random.default_rng(start)
        return draws.standard_normal((stop - start, columns), np.float32), draws.integers(0, 10, stop - start)

    return make


FULL = [
    Load("ResNet-50", 20_480, 256, 100, noise(3, 224, 224), resnet50, channels_last=True),
    Load("3D U-Net", 2_048, 8, 200, noise(1, 128, 128, 128), lambda: UNet3d(4, 10)),
    Load("table", 10_000_000, 16_384, 500, numbers(64), lambda: table_mlp(64)),
]
TINY = [
    Load("ResNet-50", 64, 8, 4, noise(3, 32, 32), resnet50, channels_last=True),
    Load("3D U-Net", 64, 8, 4, noise(1, 16, 16, 16), lambda: UNet3d(4, 10)),
    Load("table", 10_000, 256, 8, numbers(64), lambda: table_mlp(64)),
]
"""The same for a rehearsal on a CPU."""
