"""Several models' predictions become one."""

import pytest
import torch
from foldstream.storage.errors import UsageError
from foldstream.storage.format.schema import Schema
from foldstream.training.model.ensemble import combine, ensemble_weights
from foldstream.training.settings import check_ensemble

CLASSES = Schema(("a",), (1,), "float32", ("y",), "classification", "uint8", ("p", "q", "r"))
VALUES = Schema(("a",), (1,), "float32", ("y",), "regression", "float64")
# Three models, two rows, three classes: of the first row two models name class 1, of the second each another class.
PREDICTIONS = torch.tensor(
    [
        [[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]],
        [[0.3, 0.4, 0.3], [0.3, 0.4, 0.3]],
        [[0.3, 0.4, 0.3], [0.1, 0.1, 0.8]],
    ]
)


def test_the_mean_and_the_weighted_mean() -> None:
    torch.testing.assert_close(combine(PREDICTIONS, "mean", [1, 1, 1], CLASSES), PREDICTIONS.mean(dim=0))
    weights = ensemble_weights([0.5, 1.0, 1.0], higher_is_better=False)
    weighted = combine(PREDICTIONS, "weighted", weights, CLASSES)
    torch.testing.assert_close(weighted, (2 * PREDICTIONS[0] + PREDICTIONS[1] + PREDICTIONS[2]) / 4)


def test_weights_follow_from_the_distance_to_the_best_value() -> None:
    assert ensemble_weights([0.9, 0.8], higher_is_better=True) == pytest.approx([2 / 3, 1 / 3])
    assert ensemble_weights([0.0, 1.0], higher_is_better=False) == pytest.approx([1, 0], abs=1e-11)
    assert ensemble_weights([0.9, float("nan")], higher_is_better=True) == [0.5, 0.5]


def test_a_vote_counts_models_and_the_mean_decides_between_equals() -> None:
    vote = combine(PREDICTIONS, "vote", [1, 1, 1], CLASSES)
    assert vote.argmax(dim=1).tolist() == [1, 2]
    assert combine(PREDICTIONS, "mean", [1, 1, 1], CLASSES).argmax(dim=1).tolist() == [0, 2]
    torch.testing.assert_close(vote.sum(dim=1), torch.ones(2))


def test_the_median_is_one_of_probabilities_or_of_values() -> None:
    median = combine(PREDICTIONS, "median", [1, 1, 1], CLASSES)
    torch.testing.assert_close(median[0], torch.tensor([0.3, 0.4, 0.3]))
    torch.testing.assert_close(median.sum(dim=1), torch.ones(2))
    values = torch.tensor([[[1.0]], [[5.0]], [[100.0]]])
    assert combine(values, "median", [1, 1, 1], VALUES).item() == 5.0


@pytest.mark.parametrize(
    ("kind", "classes", "message"),
    [("means", True, "did you mean 'mean'"), ("vote", False, "requires classes"), ("refit", True, "with --refit")],
)
def test_ensembles_that_there_are_not_are_refused(kind: str, classes: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_ensemble(kind, classes, refit=False)
