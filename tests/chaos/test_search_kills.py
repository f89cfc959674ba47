"""A search that is killed goes on where it was, with the same candidates, rungs and weights.

These tests kill it twice, and train once with workers. `python -m tests.chaos.search_kills` kills it at any number of
random moments.
"""

import random
from pathlib import Path

import pytest
from foldstream.storage.dataset import Dataset

from .fold_kills import training
from .search_kills import command, disturb, epochs_done, result

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def quiet(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nobody has disturbed."""
    root = tmp_path_factory.mktemp("quiet") / "run"
    with training(command(digits.root, root), root.with_suffix(".log")) as process:
        assert process.wait() == 0, root.with_suffix(".log").read_text()
    return root


@pytest.mark.parametrize("mode", ["fused", "runs"])
def test_a_search_that_is_killed_ends_as_if_it_was_not(
    mode: str, quiet: Path, digits: Dataset, tmp_path: Path, seed: int
) -> None:
    moment = random.Random(f"{seed} {mode}").random() * epochs_done(quiet)
    told = disturb(digits.root, tmp_path / "run", moment, ["--fold-mode", mode, "--checkpoint-every", "5 steps"])
    assert result(tmp_path / "run") == result(quiet), told


def test_two_workers_end_with_the_same_search(quiet: Path, digits: Dataset, tmp_path: Path) -> None:
    """The cluster stays between passes, and candidates pause in its workers."""
    arguments, log = command(digits.root, tmp_path / "run", "--workers", "2"), tmp_path / "log"
    with training(arguments, log) as process:
        assert process.wait() == 0, log.read_text()
    assert result(tmp_path / "run") == result(quiet)
    assert log.read_text().count("Ray dashboard: ") == 1
