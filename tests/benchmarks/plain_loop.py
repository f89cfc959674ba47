"""A plain PyTorch loop over the folds, as one would write it by hand, with all data in memory."""

from collections.abc import Callable

import numpy as np
import torch
from foldstream.training.zoo.networks import digits_cnn, mlp
from torch import Tensor, nn
from torch.nn import functional

FOLDS, BATCH = 5, 128
FACTORIES: dict[str, Callable[..., nn.Module]] = {"digits-cnn": digits_cnn, "mlp": mlp}
RATES = {"digits-cnn": (0.006, 0.02), "mlp": (0.003, 0.01)}
"""Learning rate and weight decay."""


class Normalized(nn.Module):
    """A model of samples that it normalizes first."""

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model((x.float() - self.mean) / self.std)
        return logits


def train_folds(samples: np.ndarray, labels: np.ndarray, name: str, epochs: int) -> tuple[list[nn.Module], float]:
    """The models of all folds, trained one after the other, and the accuracy on all held-out rows."""
    x, y = torch.from_numpy(samples), torch.from_numpy(labels).long()
    mean, std = x.float().mean(), x.float().std()
    fold_of = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % FOLDS
    models: list[nn.Module] = []
    hits = 0
    for fold in range(FOLDS):
        torch.manual_seed(fold)
        models.append(Normalized(FACTORIES[name]((1, 28, 28), 10), mean, std))
        hits += train_fold(models[-1], x, y, fold_of == fold, RATES[name], epochs)
    return models, hits / len(x)


def train_fold(
    model: nn.Module, x: Tensor, y: Tensor, held_out: Tensor, rates: tuple[float, float], epochs: int
) -> int:
    """Train a model, and evaluate it after each epoch. Returns the hits on the held-out rows."""
    rows, evaluated = torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
    (lr, weight_decay), steps, hits = rates, len(rows) // BATCH, 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps * epochs + 1)
    for _ in range(epochs):
        model.train()
        order = rows[torch.randperm(len(rows))]
        for batch in torch.split(order[: steps * BATCH], BATCH):
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.inference_mode():
            hits = sum(int((model(x[part]).argmax(1) == y[part]).sum()) for part in torch.split(evaluated, 512))
    return hits


def predict(models: list[nn.Module], samples: np.ndarray) -> np.ndarray:
    """The most probable class of each sample, by the mean of all models, (rows,) int64."""
    parts = torch.split(torch.from_numpy(samples), 512)
    with torch.inference_mode():
        chosen = [torch.stack([model.eval()(x).softmax(1) for model in models]).mean(0).argmax(1) for x in parts]
    return torch.cat(chosen).numpy()
