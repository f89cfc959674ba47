"""Train the models of a run's folds as one, for small models that leave a GPU waiting for kernel launches."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ...storage.errors import RunError
from ...storage.programs.user_code import describe_error
from ..model.objective import autocast
from ..seeding import seed_of
from ..stream.batch import tensors_of, with_tensors
from .fold_model import FoldModel
from .learner import Learner
from .shares import Rows

STACK = 5  # keeps a stack's random numbers apart from those of a single fold


class Stack:
    """Trains all folds of a run at once, step by step, with `torch.func.vmap` over their stacked weights.

    Every fold has its position among `count`, even while it is not trained. Its random numbers therefore do not depend
    on which folds are trained alongside, and a resumed run is bit-identical. Each fold has its own optimizer, whose
    parameters are slices of the stacked ones.
    """

    def __init__(self, folds: Sequence[FoldModel], count: int) -> None:
        self.places, self.count = {fold.number: fold.run_fold.fold for fold in folds}, count
        self.waiting: defaultdict[int, dict[int, Rows]] = defaultdict(dict)
        """For each step, the rows that have arrived, by fold number."""

    def begin_pass(self, folds: Sequence[FoldModel]) -> None:
        """Begin a pass over the rows of these folds."""
        self.folds = {fold.number: fold for fold in folds if fold.number in self.places}
        self.begun = {number: fold.state.step for number, fold in self.folds.items()}
        self.weights: _StackedWeights | None = None

    def add(self, fold: FoldModel, step: int, parts: Sequence[Rows]) -> Iterator[tuple[FoldModel, int]]:
        """Add the rows of a step of a fold. Yields the folds that were trained, each with the step: all of them, once
        the last fold has its rows. A fold with more steps than the others receives rows of later steps early; these
        wait."""
        (self.waiting[step][fold.number],) = parts
        while self.waiting and self._is_complete(first := min(self.waiting)):
            rows = self.waiting.pop(first)
            self._train(rows, first)
            yield from ((self.folds[number], first) for number in rows)

    def _is_complete(self, step: int) -> bool:
        """Whether all folds that have this step have their rows."""
        return all(
            number in self.waiting[step]
            for number, begun in self.begun.items()
            if begun <= step < self.folds[number].state.steps
        )

    def end_pass(self) -> None:
        """Copy the weights back to each fold."""
        if self.weights:
            self.weights.unstack()

    def _train(self, rows: Mapping[int, Rows], step: int) -> None:
        if self.weights is None:  # only now: the folds' own pass has begun
            learners = {self.places[number]: fold.learner for number, fold in self.folds.items()}
            self.weights = _StackedWeights(learners, self.count)
        fold = next(iter(self.folds.values()))
        if fold.run_fold.job.config.augment:
            rows = {n: self.folds[n].learner.seeded(part, fold.state.epoch, step, 0) for n, part in rows.items()}
        fold.network.process.seed(seed_of(STACK, fold.run_fold.job.config.seed, fold.state.epoch, step))
        self.weights.add_gradients({self.places[number]: part for number, part in rows.items()}, step)
        for number in rows:
            self.folds[number].end_step(step)


class _Loss(nn.Module):
    """A fold's loss as a function of stored rows and labels, including everything fitted on its rows."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.prepare, self.model, self.objective = learner.prepare, learner.network.model, learner.objective

    def forward(self, x: Any, y: Tensor, *weight: Tensor) -> Tensor:
        loss: Tensor = self.objective(self.model(self.prepare(x)), y, *weight)
        return loss


class _StackedWeights:
    """Parameters and buffers of models as slices of stacked tensors, one per name, (count, *shape)."""

    def __init__(self, learners: Mapping[int, Learner], count: int) -> None:
        self.learners, self.count = learners, count
        self.losses = {place: _Loss(learner) for place, learner in learners.items()}
        self.own = {place: _tensors(loss) for place, loss in self.losses.items()}
        """The original tensors of each model, to which its slices are copied back; they keep their memory format."""
        first = next(iter(learners))
        if len({learner.prepare.inputs.schema.columns for learner in learners.values()}) > 1:
            raise RunError(
                "--set stack=true: the folds' models have different inputs, because some columns have missing values "
                "in the training rows of only some folds; use --missing mean, or start a new run without this setting"
            )
        filled = [self.own.get(place, self.own[first]) for place in range(count)]
        stacked = {name: torch.stack([tensors[name] for tensors in filled]) for name in filled[0]}
        self.template, self.network = self.losses[first], learners[first].network
        self.parameters = {
            name: stacked.pop(name).requires_grad_(parameter.requires_grad)
            for name, parameter in self.template.named_parameters()
        }
        self.buffers = stacked
        self.slices = {
            place: [(parameter, self.parameters[name]) for name, parameter in loss.named_parameters()]
            for place, loss in self.losses.items()
        }
        """Each model's parameters, together with the stacked parameters of which they are slices."""
        for place, loss in self.losses.items():
            tensors = self.parameters | self.buffers
            _use(loss, {name: tensor.detach()[place] for name, tensor in tensors.items()})

    def unstack(self) -> None:
        """Restore every model's own tensors, with the values of its slices."""
        for place, own in self.own.items():
            for name, tensor in _tensors(self.losses[place]).items():
                own[name].copy_(tensor)
            _use(self.losses[place], own)

    def add_gradients(self, rows: Mapping[int, Rows], step: int) -> None:
        """Run the forward and backward pass for the models that have rows. The others compute on zeros, whose results
        are discarded."""
        nothing = with_tensors(next(iter(rows.values())), torch.zeros_like)
        filled = [rows.get(place, nothing) for place in range(self.count)]
        of_places = map(torch.stack, zip(*map(tensors_of, filled), strict=True))
        losses = self._losses(with_tensors(nothing, lambda _: next(of_places)))
        present = {place: self.learners[place] for place in rows}
        if any(learner.begins_update(step) for learner in present.values()):
            for parameter in self.parameters.values():
                parameter.grad = None
        scaled = [learner.scaler.scale(losses[p] / learner.in_update(step)) for p, learner in present.items()]
        torch.stack(scaled).sum().backward()  # type: ignore[no-untyped-call]
        for place, learner in present.items():
            for parameter, stacked in self.slices[place]:
                parameter.grad = None if stacked.grad is None else stacked.grad[place]
            learner.current.add_loss(0, losses[place], len(rows[place][1]))

    def _losses(self, rows: Rows) -> Tensor:
        """The loss of every model, (count,), whose rows are at its position in each tensor."""

        def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *rows: Any) -> Tensor:
            return functional_call(self.template, (parameters, buffers), rows)  # type: ignore[no-any-return]

        with autocast(self.network.process.device, self.network.recipe.precision):
            try:
                losses: Tensor = vmap(loss, randomness="different")(self.parameters, self.buffers, *rows)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, TypeError, ValueError) as error:
                raise RunError(
                    f"--set stack=true: torch.func.vmap does not support this model: {describe_error(error)}; "
                    "start a new run without this setting"
                ) from error
        return losses


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by name."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _use(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make a model use other tensors as its parameters and buffers."""
    for name, parameter in model.named_parameters():
        parameter.data = tensors[name]
    for name, _ in list(model.named_buffers()):
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner)._buffers[own] = tensors[name]
