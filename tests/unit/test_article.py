"""The worked examples of the tutorial that Foldstream comes from, against numpy, scipy and torch."""

from typing import Literal

import numpy as np
import pytest
import torch
from foldstream.training.model.optimizer import make_optimizer, make_scheduler
from foldstream.training.settings import resolve_settings
from foldstream.training.zoo.factory import load_factory
from foldstream.training.zoo.networks import ArticleCNN
from scipy.signal import convolve2d
from torch import nn
from torch.nn import functional

SIGNAL, KERNEL = np.array([0, 1, 2, 3]), np.array([2, -1, 1])
IMAGE = np.array([[2, 1, 3], [5, -2, 1], [0, 2, -4]])
FILTER = np.array([[-1, 0], [2, 1]])


def torch_convolve(image: np.ndarray, kernel: np.ndarray, padding: int) -> np.ndarray:
    """torch's layers correlate: a convolution turns the kernel round first."""
    turned = torch.from_numpy(kernel[::-1, ::-1].copy()).double()[None, None]
    out = functional.conv2d(torch.from_numpy(image).double()[None, None], turned, padding=padding)
    return out[0, 0].numpy()


def test_the_one_dimensional_convolution_gives_3_and_5() -> None:
    assert np.convolve(SIGNAL, KERNEL, "valid").tolist() == [3, 5]
    turned = torch.from_numpy(KERNEL[::-1].copy()).double()[None, None]
    assert functional.conv1d(torch.from_numpy(SIGNAL).double()[None, None], turned).flatten().tolist() == [3, 5]


@pytest.mark.parametrize(
    ("mode", "padding", "expected"),
    [
        ("full", 1, [[-2, -1, -3, 0], [-1, 6, 6, 3], [10, -1, 4, 1], [0, 4, -6, -4]]),
        ("valid", 0, [[6, 6], [-1, 4]]),
    ],
)
def test_the_two_dimensional_convolution(
    mode: Literal["full", "valid"], padding: int, expected: list[list[int]]
) -> None:
    assert convolve2d(IMAGE, FILTER, mode).tolist() == expected
    assert torch_convolve(IMAGE, FILTER, padding).tolist() == expected


def test_article_cnn_has_the_articles_layers() -> None:
    model = load_factory("article-cnn")((1, 28, 28), 10)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (6, 6, 1),
        (12, 5, 2),
        (24, 4, 2),
    ]
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(24 * 7 * 7, 128), (128, 256), (256, 10)]
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == pytest.approx([0.2, 0.2])
    assert sum(isinstance(layer, nn.LocalResponseNorm) for layer in model.modules()) == 3
    assert sum(isinstance(layer, nn.Tanh) for layer in model.modules()) == 2
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_article_cnn_trains_with_sgd_that_decays_every_100_steps_and_l2_on_the_convolutions() -> None:
    recipe, _ = resolve_settings("article-cnn", {})
    model = ArticleCNN((1, 28, 28), 10)
    optimizer = make_optimizer(model, recipe)
    scheduler = make_scheduler(optimizer, recipe, 1000)
    assert isinstance(optimizer, torch.optim.SGD)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] > 0
    assert all(p.ndim == 4 for p in decayed["params"])
    assert free["weight_decay"] == 0
    rates = []
    for _ in range(201):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [rates[i] for i in (0, 99, 100, 200)] == pytest.approx([0.1, 0.1, 0.0096, 0.0096 * 0.096])
