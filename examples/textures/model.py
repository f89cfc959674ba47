"""A small network for textures that changes its training pictures: a model of one's own, with augmentation.

Random numbers are drawn from torch, which Foldstream seeds before each step: a run that was cut short ends as one that
was not.
"""

import torch
from torch import Tensor, nn


class Augment(nn.Module):
    """While training, mirror and turn a batch at random, and dim or brighten each of its pictures."""

    def __init__(self, brightness: float) -> None:
        super().__init__()
        self.brightness = brightness

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if torch.rand(()) < 0.5:
            x = x.flip(-1)
        x = x.rot90(int(torch.randint(4, ())), (-2, -1))
        factor = 1 + self.brightness * (2 * torch.rand(len(x), 1, 1, 1, device=x.device) - 1)
        return x * factor


def texture_net(
    sample_shape: tuple[int, ...], outputs: int, width: int = 16, brightness: float = 0.2, dropout: float = 0.2
) -> nn.Module:
    """Three convolutions, each half as large and twice as wide as the one before, and the mean over the picture."""
    parts: list[nn.Module] = [Augment(brightness)]
    channels = sample_shape[0]
    for wide in (width, 2 * width, 4 * width):
        parts += [nn.Conv2d(channels, wide, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        channels = wide
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, outputs)
    )
