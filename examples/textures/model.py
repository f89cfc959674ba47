"""A small network for textures that augments its training images: an example of a user-defined model.

Random numbers come from torch, which Foldstream seeds before each step. A resumed run therefore gives the same result
as an uninterrupted one.
"""

import torch
from torch import Tensor, nn


class Augment(nn.Module):
    """In training mode, flip and rotate each batch at random, and change the brightness of each image."""

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
    """Three convolutions, each with half the resolution and twice the channels of the last, then mean pooling."""
    parts: list[nn.Module] = [Augment(brightness)]
    channels = sample_shape[0]
    for wide in (width, 2 * width, 4 * width):
        parts += [nn.Conv2d(channels, wide, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        channels = wide
    return nn.Sequential(
        *parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels, outputs)
    )
