"""A search over settings: what is refused, what a search leaves, and that it changes nothing in what it trains."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cli import app
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.listener import Listener
from foldstream.cluster.runs.status import run_status
from foldstream.cluster.search.draw import draw, importances
from foldstream.cluster.search.record import claim, read_results, read_search
from foldstream.cluster.submit.submission import JOB, pack_job
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, ForeignError, RunError, UsageError
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.run import RunFolder
from foldstream.training.search import SearchOptions, as_search
from typer.main import get_command

from ..chaos.disk import read_tree

SPACE: dict[str, Any] = {
    "lr": (1e-3, 0.1, "log"),
    "hidden": [8, 16],
    "dropout": {"low": 0.0, "high": 0.5, "step": 0.25},
}
RUNGS = [{"folds": 1, "epochs": 1}, {"folds": 2, "epochs": 2}]
OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 3, "batch_size": 64, "progress": False}
SEARCH: dict[str, Any] = {"space": SPACE, "trials": 6, "width": 4, "reduction": 2, "rungs": RUNGS}


class KilledError(Exception):
    """A command is killed."""


@pytest.fixture(scope="module")
def searched(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that is finished."""
    root = tmp_path_factory.mktemp("search") / "run"
    fs.search(digits.place, root, **SEARCH, **OPTIONS, checkpoint_every="3 epochs")
    return root


def weights(run: Path) -> list[bytes]:
    return [RunFolder(locate(run)).fold(fold).weights.read_bytes() for fold in range(2)]


def settings_of(root: Path, name: str) -> dict[str, Any]:
    record = read_search(locate(root))
    assert record is not None
    return record.settings_of(name)


def decided(root: Path) -> tuple[Any, Any, Any]:
    """What a search has drawn and decided, and with which results."""
    record = read_search(locate(root))
    assert record is not None
    return record.trials, record.passes, read_results(locate(root), record)


def test_a_candidate_that_is_never_stopped_has_the_weights_of_its_settings_alone(
    searched: Path, digits: Dataset, tmp_path: Path
) -> None:
    run = fs.Run(searched)
    finished = run.trials[run.trials["state"] == "finished"]
    assert 1 <= len(finished) < 6
    for name in finished.index:
        fs.train(digits.place, tmp_path / name, settings=settings_of(searched, name), **OPTIONS)
        assert weights(tmp_path / name) == weights(searched / "candidates" / name)


def test_candidates_stop_at_rungs_with_a_reason(searched: Path) -> None:
    trials = fs.Run(searched).trials
    assert [*trials.columns] == ["dropout", "hidden", "lr", "rung", "score", "state", "why"]
    stopped = trials[trials["state"] == "stopped"]
    assert len(stopped) >= 3
    assert all(
        stopped["why"].str.fullmatch(r"rung \d: \d(st|nd|rd|th) of \d, the best (one|\d) went on(, and \d others?)?")
    )
    for name, one in stopped.iterrows():
        folds = [RunFolder(locate(searched / "candidates" / str(name))).fold(fold) for fold in range(2)]
        epochs = [len(read_json(fold.history)) if fold.history.exists() else 0 for fold in folds]
        assert epochs == ([1, 0] if one["rung"] == 1 else [2, 2])
        assert not any(fold.done.exists() for fold in folds)
        stored = [fold.checkpoints.names() for fold in folds]  # also where none is due
        expected = [f"epoch-{number:05}" for number in epochs if number]
        assert [names[0].partition("-step")[0] for names in stored if names] == expected


def test_a_search_takes_the_place_of_a_run(searched: Path, digits: Dataset, tmp_path: Path) -> None:
    run = fs.Run(searched)
    best = read_json(locate(searched / "grid.json"))["best"]
    scores = run.trials.loc[run.trials["state"] == "finished", "score"]
    assert run.best.place == locate(searched / "candidates" / best)
    assert run.metrics["accuracy"] == run.candidates["accuracy"].max()
    assert scores.loc[best] == pytest.approx(run.metrics["accuracy"], abs=0.01)  # folds of about equal size
    assert repr(run).startswith(f"Run {searched}: the best of 6 candidates, {best}, is mlp")
    predicted = run.predict(digits.place, progress=False)
    assert len(predicted) == 1200
    status = run_status(locate(searched))
    assert status.complete
    assert {fold.state for fold in status.folds if not fold.done} == {"paused", "waiting"}


def test_the_same_call_returns_at_once_and_another_one_is_refused(searched: Path, digits: Dataset) -> None:
    before, told = decided(searched), dict[str, str]()
    again = fs.search(digits.place, searched, **SEARCH, **OPTIONS, listener=Listener(announce=told.__setitem__))
    assert decided(searched) == before
    assert "models" not in told
    assert (told["report"], told["search report"]) == (again.report, f"{searched}/search.html")
    with pytest.raises(ConflictError, match=r"another search: space was {.*low: 0.001.*} and is now {.*low: 0.01"):
        fs.search(digits.place, searched, **SEARCH | {"space": SPACE | {"lr": (1e-2, 0.1, "log")}}, **OPTIONS)
    with pytest.raises(ConflictError, match="seed was 0 and is now 1"):
        fs.search(digits.place, searched, **SEARCH, **OPTIONS, seed=1)
    with pytest.raises(ConflictError, match="is a search of 6 trials, which can be increased but not reduced to 5"):
        fs.search(digits.place, searched, **SEARCH | {"trials": 5}, **OPTIONS)
    with pytest.raises(ConflictError, match="the rungs were 1 epoch of 1 fold, 2 epochs of all folds, 3 epochs of all"):
        fs.search(digits.place, searched, **SEARCH | {"rungs": RUNGS[:1]}, **OPTIONS)
    with pytest.raises(ConflictError, match="is a search; go on with it by its search"):
        fs.train(digits.place, searched, settings={"lr": [0.1, 0.2]}, **OPTIONS)
    with pytest.raises(ConflictError, match="already contains a single run, not a search"):
        fs.search(digits.place, searched / "candidates" / "trial-00", **SEARCH, **OPTIONS)


def test_a_search_that_is_killed_in_a_pass_decides_the_same(
    searched: Path, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in each of its first passes, once some of its folds have written their result."""
    pause, kills = FoldTrainer.pause, dict[int, int]()

    def pause_some(self: FoldTrainer, folds: Any) -> None:
        if len(folds) > 1 and self.until not in kills:
            record = read_search(locate(tmp_path / "run"))
            kills[self.until] = len(record.passes) if record else 0  # decisions are written before they are acted on
            pause(self, folds[:1])
            raise KilledError
        pause(self, folds)

    monkeypatch.setattr(FoldTrainer, "pause", pause_some)
    for _ in range(2):
        with pytest.raises(RunError) as failed:
            fs.search(digits.place, tmp_path / "run", **SEARCH, **OPTIONS, max_retries=0)
        assert isinstance(failed.value.__cause__, KilledError)
    fs.search(digits.place, tmp_path / "run", **SEARCH, **OPTIONS)
    assert kills == {1: 1, 2: 2}
    assert decided(tmp_path / "run") == decided(searched)
    best = read_json(locate(searched / "grid.json"))["folder"]
    assert weights(tmp_path / "run" / best) == weights(searched / best)


def test_more_trials_go_on_with_a_finished_search(digits: Dataset, tmp_path: Path) -> None:
    few = SEARCH | {"trials": 3}
    fs.search(digits.place, tmp_path / "run", **few, **OPTIONS)
    trials, passes, results = decided(tmp_path / "run")
    run = fs.search(digits.place, tmp_path / "run", **few | {"trials": 5}, **OPTIONS)
    more, after, known = decided(tmp_path / "run")
    assert (more[:3], after[: len(passes)]) == (trials, passes)
    assert len(run.trials) == len({json.dumps(trial.settings) for trial in more}) == 5
    assert {cell: known[cell] for cell in results} == results


def test_a_command_that_waited_goes_on_from_the_newest_record(searched: Path) -> None:
    """Another one has finished the search since it looked."""
    newest = read_search(locate(searched))
    assert newest is not None
    assert claim(locate(searched), replace(newest, trials=(), passes=())) == newest
    with pytest.raises(ConflictError, match="another search: the dataset is different; choose another folder"):
        claim(locate(searched), replace(newest, definition={**newest.definition, "identity": "another"}))


def test_a_candidate_that_diverges_stops_and_the_others_go_on(digits: Dataset, tmp_path: Path) -> None:
    space = {"lr": [0.01, 1e9, 0.02]}
    run = fs.search(
        digits.place, tmp_path / "run", space=space, sampler="grid", **OPTIONS, settings={"optimizer": "SGD"}
    )
    failed = run.trials.loc["trial-01"]
    assert (failed["state"], failed["why"]) == ("failed", "fold 0, epoch 1: the training loss is nan")
    finished = run.trials[run.trials["state"] == "finished"]
    (lr,) = finished["lr"].tolist()
    fs.train(digits.place, tmp_path / "alone", settings={"lr": lr, "optimizer": "SGD"}, **OPTIONS)
    assert weights(tmp_path / "alone") == weights(run.best.place)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="all 1 candidates of the search have failed, the first because of: fold 0"):
        fs.search(digits.place, tmp_path / "bad", space={"lr": [1e9]}, **OPTIONS, settings={"optimizer": "SGD"})


def test_a_refit_does_not_wait_for_folds_that_have_diverged(digits: Dataset, tmp_path: Path) -> None:
    """Divergence at the last rung, before a refit whose epochs depend on the folds."""
    settings = {"optimizer": "SGD", "patience": 1}
    run = fs.search(
        digits.place,
        tmp_path / "run",
        space={"lr": [0.01, 1e9]},
        **OPTIONS | {"epochs": 1},
        refit=True,
        settings=settings,
    )
    assert run.trials["state"].tolist() == ["finished", "failed"]
    assert run.best.place == locate(tmp_path / "run" / "candidates" / "trial-00")
    states = {fold.name: fold.state for fold in run_status(locate(tmp_path / "run")).folds}
    assert states["trial-00 refit"] == "done"
    assert {state for name, state in states.items() if name.startswith("trial-01")} == {"diverged"}


def test_a_candidate_of_a_grid_that_diverges_drops_out(digits: Dataset, tmp_path: Path) -> None:
    root, settings = tmp_path / "run", {"lr": [1e9, 0.01, 0.02], "optimizer": "SGD", "patience": 1}
    run = fs.train(digits.place, root, settings=settings, **OPTIONS, refit=True)
    scores = run.candidates["accuracy"]
    assert scores.isna().tolist() == [False, True, False]  # the best one first
    assert scores.index[0] == scores.idxmax()
    first, *others = run.summary["candidates"]
    assert first["failure"] == "fold 0, epoch 1: the training loss is nan"
    assert not any("failure" in one for one in others)
    assert run_status(locate(root)).complete
    alone = fs.train(digits.place, tmp_path / "alone", settings=settings | {"lr": 0.01}, **OPTIONS, refit=True)
    assert weights(root / "candidates" / "lr=0.01") == weights(alone.place)  # type: ignore[arg-type]

    before = (root / "journal.jsonl").read_bytes()
    assert fs.train(digits.place, root, settings=settings, **OPTIONS, refit=True).summary == run.summary
    assert (root / "journal.jsonl").read_bytes() == before  # nothing was left to train
    with pytest.raises(RunError, match=r"all 2 candidates have diverged, the first one, lr=1000000000.0, in fold 0"):
        fs.train(digits.place, tmp_path / "bad", settings={"lr": [1e9, 2e9], "optimizer": "SGD"}, **OPTIONS)
    assert_not_complete(tmp_path / "bad", "grid", digits)


def assert_not_complete(root: Path, what: str, digits: Dataset) -> None:
    """That all that uses a run says that this folder has none, and why."""
    message = f"is a {what} that is not complete, .*if all candidates have failed, start a new one in another folder"
    with pytest.raises(ForeignError, match=message):
        fs.Run(root)
    with pytest.raises(ForeignError, match=message):
        fs.predict(root, digits.place, root.parent / "out.csv")
    with pytest.raises(ForeignError, match=message):
        fs.ensemble([root, root], root.parent / "both")
    with pytest.raises(ForeignError, match=message):
        fs.export(root, root.parent / "exported")
    with pytest.raises(ForeignError, match=message):
        get_command(app)(["info", str(root)], standalone_mode=False)


def test_a_search_in_which_all_fail_says_so_later(digits: Dataset, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 1, "settings": {"optimizer": "SGD"}}
    with pytest.raises(RunError, match="all 2 candidates of the search have failed"):
        fs.search(digits.place, tmp_path / "run", space={"lr": [1e9, 2e9]}, **options)
    assert_not_complete(tmp_path / "run", "search", digits)
    with pytest.raises(UsageError, match="is not a complete run, as it has diverged in fold 0, epoch 1"):
        fs.Run(tmp_path / "run" / "candidates" / "trial-00")


def test_a_folder_belongs_to_one_run_grid_or_search(searched: Path, digits: Dataset, tmp_path: Path) -> None:
    def train(root: Path, *rates: float, **options: Any) -> fs.Run:
        return fs.train(digits.place, root, settings={"lr": [*rates]}, **OPTIONS | {"epochs": 1} | options)

    one, grid = tmp_path / "one", tmp_path / "grid"
    train(one, 0.01)
    train(grid, 0.01, 0.02)
    before = read_tree(tmp_path)
    with pytest.raises(ConflictError, match="one already contains a single run, not a grid; choose another folder"):
        train(one, 0.01, 0.02)
    for rates in ((0.01,), (0.01, 0.03), (0.03, 0.04)):
        with pytest.raises(ConflictError, match=r"grid already contains a grid with other candidates \(lr=0.0"):
            train(grid, *rates)
    with pytest.raises(ConflictError, match="grid already contains a grid with other candidates"):
        fs.search(digits.place, grid, **SEARCH, **OPTIONS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("notes")
    with pytest.raises(ConflictError, match="something that is not a grid; choose another folder"):
        train(tmp_path / "notes", 0.01, 0.02)
    with pytest.raises(ConflictError, match="something that is not a search; choose another folder"):
        fs.search(digits.place, tmp_path / "notes", **SEARCH, **OPTIONS)
    (tmp_path / "notes" / "mine.txt").unlink()
    (tmp_path / "notes").rmdir()
    assert read_tree(tmp_path) == before
    assert len(train(grid, 0.01, 0.02, 0.03).summary["candidates"]) == 3  # values may be added


def test_settings_that_do_not_go_together_are_candidates_that_fail(digits: Dataset, tmp_path: Path) -> None:
    space = {"optimizer": ["AdamW", "SGD"], "momentum": [0.0, 0.9]}
    run = fs.search(digits.place, tmp_path / "run", space=space, sampler="grid", **OPTIONS)
    (failed,) = run.trials[run.trials["state"] == "failed"]["why"]
    assert failed == "--set momentum=0.9: AdamW has no momentum; use SGD or RMSprop"
    (name,) = run.trials[run.trials["state"] == "failed"].index
    assert not (tmp_path / "run" / "candidates" / name).exists()


def test_early_stopping_and_a_refit_go_together_with_a_search(digits: Dataset, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 4, "refit": True, "settings": {"patience": 1, "hidden": 8}}
    run = fs.search(digits.place, tmp_path / "run", space={"lr": [0.3, 0.001]}, reduction=2, **options)
    best = run.best.place
    settings = options.pop("settings") | settings_of(tmp_path / "run", best.name)
    fs.train(digits.place, tmp_path / "alone", settings=settings, **options)
    for fold in range(3):
        found, expected = (RunFolder(place).fold(fold).weights for place in (best, locate(tmp_path / "alone")))
        assert found.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"space": {}}, "space = {}: must be a table of settings, e.g. lr from low"),
        (
            {"space": {"lr": {"low": 0.1, "high": 0.01}}},
            "search.space.lr = {'low': 0.1, 'high': 0.01}: low must be less than high",
        ),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, ": a log scale needs a low above 0"),
        ({"space": {"lr": {"low": 0.1}}}, "search.space.lr = {'low': 0.1}: write a list of choices, or low and high"),
        ({"space": {"lr": []}}, "search.space.lr = []: choices must be numbers, text, true or false"),
        ({"space": {"lr": [1, 1]}}, "search.space.lr = [1, 1]: two choices are the same"),
        (
            {"space": {"stack": [True, False]}},
            "search.space.stack = [True, False]: all candidates that train in one pass share this",
        ),
        (
            {"space": {"lr": [1]}, "sampler": "annealing"},
            "search.sampler 'annealing' is not valid: choose from tpe, random",
        ),
        ({"space": {"lr": [1]}, "trial": 3}, "trial is not an option: did you mean 'trials'?"),
        (
            {"space": {"lr": [1]}, "rungs": [{"folds": 2, "epochs": 2}, {"folds": 1, "epochs": 3}]},
            "each rung must have",
        ),
    ],
    ids=["nothing", "ends", "log", "one end", "no choice", "twice", "stack", "sampler", "a name", "rungs"],
)
def test_a_definition_that_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        as_search(given)
    assert message in str(error.value)


def test_a_search_is_checked_before_anything_starts(digits: Dataset, tmp_path: Path) -> None:
    def refused(space: dict[str, Any], **options: Any) -> str:
        with pytest.raises(UsageError) as error:
            fs.search(digits.place, tmp_path / "run", space=space, **OPTIONS | options)
        assert not (tmp_path / "run").exists()
        return str(error.value)

    assert "space.lrr: this is not a setting; did you mean 'lr'?" in refused({"lrr": [1]})
    assert "space.batch_size: this is an option, not a setting; use batch_size=" in refused({"batch_size": [8]})
    assert "space.label_smoothing=2.0: must be at most 1" in refused({"label_smoothing": (0.0, 2.0)})
    assert "space.optimizer=Adm: did you mean 'Adam'?" in refused({"optimizer": ["Adm", "SGD"]})
    assert refused({"lr": {"low": 0.1}}).startswith("space.lr = {'low': 0.1}: write a list of choices, or low and high")
    for low, high in ((0.1, 1.5), (-0.5, 0.1)):
        message = refused({"dropout": (low, high), "hidden": [8, 16]})
        assert f"space.dropout: {high if low > 0 else low} cannot be trained with any of the other ends" in message
        assert "probability" in message
    assert "is searched too" in refused({"lr": [1]}, settings={"lr": 1})
    assert "with several values makes a grid" in refused({"lr": [1]}, settings={"hidden": [8, 16]})
    assert "space.lr: the sampler grid needs a step" in refused({"lr": (0.1, 1.0)}, sampler="grid")
    assert "3 epochs of 2 folds" in refused({"lr": [1]}, rungs=[{"folds": 3, "epochs": 1}])


def test_draws_follow_from_the_seed_and_the_wave() -> None:
    table = {"space": {"lr": {"low": 1e-4, "high": 0.1, "log": True}, "n": {"low": 1, "high": 3}}, "trials": 12}
    for sampler in ("tpe", "random", "qmc"):
        options = SearchOptions.parse(table | {"sampler": sampler})
        first = draw(options, 0, 0, 6, [], {})
        scores = {number: -abs(one["lr"] - 0.01) for number, one in enumerate(first)}
        second = draw(options, 0, 1, 6, first, scores)
        assert second == draw(options, 0, 1, 6, first, scores)
        assert draw(options, 1, 0, 6, [], {}) != first
        assert len({json.dumps(one) for one in first + second}) == 12
        assert all(1e-4 <= one["lr"] <= 0.1 and one["n"] in (1, 2, 3) for one in first + second)
    grid = SearchOptions.parse({"space": {"n": {"low": 1, "high": 3}, "a": ["x", "y"]}, "sampler": "grid"})
    assert grid.total == 6
    assert draw(grid, 0, 1, 3, [{}] * 3, {}) == [{"a": "y", "n": 1}, {"a": "y", "n": 2}, {"a": "y", "n": 3}]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid"])
def test_the_order_of_the_settings_makes_no_difference(sampler: str) -> None:
    space = {"lr": {"low": 0.1, "high": 0.3, "step": 0.1}, "n": [1, 2], "a": ["x", "y"]}
    orders = space.items(), [*space.items()][::-1]
    one, other = (SearchOptions.parse({"space": dict(order), "sampler": sampler}) for order in orders)
    drawn = draw(one, 0, 0, 6, [], {})
    assert drawn == draw(other, 0, 0, 6, [], {})
    assert {tuple(settings) for settings in drawn} == {("a", "lr", "n")}


def test_tpe_has_a_wave_that_learns_by_default(digits: Dataset, tmp_path: Path) -> None:
    assert SearchOptions.parse({"space": SPACE, "sampler": "qmc"}).wave == 16
    assert SearchOptions.parse({"space": SPACE, "width": 3}).wave == 3
    assert SearchOptions.parse({"space": {f"s{number}": [1, 2] for number in range(9)}}).wave == 12
    options = OPTIONS | {"epochs": 1}
    fs.search(digits.place, tmp_path / "run", space={"lr": SPACE["lr"]}, trials=12, **options)
    trials, _, results = decided(tmp_path / "run")
    assert [trial.wave for trial in trials] == [0] * 10 + [1] * 2
    scores = {number: results[number, 0].scores[0] for number in range(10)}
    known = [trial.settings for trial in trials[:10]]
    options_of_draw = SearchOptions.parse({"space": {"lr": SPACE["lr"]}})
    assert [trial.settings for trial in trials[10:]] == draw(options_of_draw, 0, 1, 2, known, scores)
    assert [trial.settings for trial in trials[10:]] != draw(options_of_draw, 0, 1, 2, known, {})


def test_the_setting_that_matters_is_the_most_important_one() -> None:
    options = SearchOptions.parse({"space": {"lr": (1e-4, 0.1, "log"), "n": (1, 30)}, "sampler": "random"})
    tried = draw(options, 0, 0, 40, [], {})
    scores = {number: -abs(one["n"] - 10.0) for number, one in enumerate(tried)}
    assert next(iter(importances(options, tried, scores))) == "n"
    assert importances(options, tried[:9], {number: scores[number] for number in range(9)}) == {}


def test_the_report_says_what_was_tried_and_what_it_cost(searched: Path) -> None:
    facts = read_json(locate(searched / "search.json"))["facts"]
    assert [rung["name"] for rung in facts["rungs"]] == [
        "1 epoch of 1 fold",
        "2 epochs of all folds",
        "3 epochs of all folds",
    ]
    assert facts["rungs"][0]["reached"] == len(facts["trials"]) == 6
    cost = {1: 1, 2: 4, 3: 6}
    for trial in facts["trials"]:
        assert trial["fold_epochs"] == cost[trial["rung"]]
        assert trial["rows"] == pytest.approx(600 * trial["fold_epochs"], abs=100)
        assert len(trial["curve"]) == min(trial["rung"], 3)
        assert trial["seconds"] > 0
    assert facts["cost"]["rows"] == sum(trial["rows"] for trial in facts["trials"])
    assert facts["full_cost"]["fold_epochs"] == 36
    assert facts["saved"] == pytest.approx(1 - facts["cost"]["rows"] / facts["full_cost"]["rows"])
    front = [trial for trial in facts["trials"] if trial["front"]]
    assert max(facts["trials"], key=lambda one: one["score"])["front"]
    assert all(
        other["score"] <= one["score"] or other["rows"] > one["rows"] for one in front for other in facts["trials"]
    )
    text = (searched / "search.md").read_text()
    assert f"- best candidate: {facts['best']}, out-of-fold accuracy" in text
    assert "it takes 10" in text
    assert text.count("\n| trial-") == 6


def test_a_job_file_takes_the_file_of_a_search_or_its_table(tmp_path: Path) -> None:
    (tmp_path / "search.toml").write_text("trials = 3\n[space]\nlr = [0.1, 0.2, 0.3]\n")
    for search in ('search = "search.toml"', "search = { trials = 3, space = { lr = [0.1, 0.2, 0.3] } }"):
        (tmp_path / "job.toml").write_text(f'[train]\ndataset = "data.zarr"\nrun = "run"\n{search}\n')
        tables = load_job_file(tmp_path / "job.toml")
        assert tables["train"]["search"]["space"] == {"lr": [0.1, 0.2, 0.3]}
        pack_job(tables, tmp_path)  # what is submitted does not need the file
        sent = load_job_file(tmp_path / JOB)["train"]["search"]
        assert sent == tables["train"]["search"]
    (tmp_path / "job.toml").write_text('[train]\ndataset = "data.zarr"\nrun = "run"\nsearch = "none.toml"\n')
    with pytest.raises(
        UsageError, match=r"--search .*none.toml is not a file; give the path of a TOML file with a table"
    ):
        load_job_file(tmp_path / "job.toml")


def test_the_command_line_searches_and_shows_the_rungs(
    searched: Path, digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> str:
        get_command(app).main(words, prog_name="foldstream", standalone_mode=False)
        return capsys.readouterr().out

    (tmp_path / "search.toml").write_text("trials = 2\n[space]\nlr = [0.1, 0.01]\nhidden = [8]\n")
    options = ["--model", "mlp", "--folds", "2", "--epochs", "1", "--search", str(tmp_path / "search.toml")]
    told = call("train", str(digits.root), str(tmp_path / "run"), *options)
    assert "search: pass 1: 2 candidates train to rung 1, 1 epoch of all folds" in told
    state = json.loads(call("--json", "status", str(searched)).splitlines()[-1])["result"]
    assert state["complete"]
    assert [one["name"] for one in state["search"]] == [f"trial-0{number}" for number in range(6)]
    assert {one["state"] for one in state["search"]} == {"finished", "stopped"}
    assert "best" in call("info", str(searched))
