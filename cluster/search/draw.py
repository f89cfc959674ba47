"""Draws candidates, with Optuna's samplers, and says which settings matter. Optuna is imported only here."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice, product
from math import isfinite
from typing import TYPE_CHECKING, Any

from ...storage.errors import UsageError
from ...storage.random import hash64
from ...training.search import STARTUP, Dimension, SearchOptions
from .plan import Results, Rules, ranking, reached_by

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

LEAST_FOR_IMPORTANCE = 10  # candidates with a score
TRIES = 100  # to draw settings that were not drawn before
SEEDS = 1 << 32
Settings = Mapping[str, Any]


def check_optuna() -> None:
    """Raise UsageError if Optuna, or SciPy for its sampler qmc, is not installed."""
    for module, name in (("optuna", "Optuna"), ("scipy", "SciPy")):
        if find_spec(module) is None:
            raise UsageError(f"--search needs {name}, which is not installed; run 'pip install foldstream[search]'")


def informative_rung(rules: Rules, needed: int, results: Results) -> int:
    """The rung whose scores guide the sampler: scores of different rungs do not compare, so that of the highest rung
    that as many candidates have reached as are `needed`, or else of the first."""
    counts = [reached_by(rung, results) for rung in range(len(rules.rungs))]
    return max([rung for rung, count in enumerate(counts) if count >= needed], default=0)


def draw(
    options: SearchOptions, seed: int, wave: int, count: int, tried: Sequence[Settings], scores: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Draw the settings of `count` new candidates, which follow from the seed, the wave and what is known so far.

    Args:
        options: The search.
        seed: The seed of the run.
        wave: The number of this wave.
        count: How many to draw.
        tried: The settings of all candidates before.
        scores: For some of them, by their numbers, a score of which higher is better.

    Returns:
        The settings of each.
    """
    if options.sampler == "grid":
        return list(islice(_combinations(options.dimensions), len(tried), len(tried) + count))
    evenly = options.sampler == "qmc"  # one sequence for all waves, of which those before were the beginning
    sampler_seed = int(hash64(seed, 0 if evenly else wave)[0]) % SEEDS
    with _quietly():
        study = _study(options.dimensions, tried, {} if evenly else scores, _sampler(options.sampler, sampler_seed))
        distributions = {one.name: _distribution(one) for one in options.dimensions}
        drawn: list[dict[str, Any]] = [] if evenly else [dict(settings) for settings in tried]
        while len(drawn) < len(tried) + count:
            drawn.append(_draw_new(study, distributions, drawn))
    return drawn[len(tried) :]


def _draw_new(study: "Study", distributions: dict[str, Any], known: Sequence[Settings]) -> dict[str, Any]:
    """Settings that were not drawn before, if the sampler finds some."""
    for _ in range(TRIES):
        settings = dict(study.ask(distributions).params)
        if settings not in known:
            break
    return settings


def importances(options: SearchOptions, tried: Sequence[Settings], scores: Mapping[int, float]) -> dict[str, float]:
    """How much of the variation of the scores each setting explains, the most important first: PED-ANOVA (Watanabe et
    al. 2023). Empty if there are too few candidates to tell."""
    several = [one for one in options.dimensions if len({repr(tried[number][one.name]) for number in scores}) > 1]
    if len(scores) < LEAST_FOR_IMPORTANCE or len({*scores.values()}) < 2 or not several:
        return {}
    with _quietly():
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        study = _study(options.dimensions, tried, scores, _sampler("random", 0))
        names = [one.name for one in several]
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(), params=names)
    return {name: float(share) for name, share in found.items() if isfinite(share)}


def known_scores(rung: int, results: Results) -> dict[int, float]:
    """The first score of each candidate at a rung; one that has failed gets the lowest of the others."""
    scores = {trial: results[trial, rung].scores[0] for trial in ranking(rung, results)}
    finite = {trial: score for trial, score in scores.items() if isfinite(score)}
    worst = min(finite.values(), default=0.0)
    return {trial: finite.get(trial, worst) for trial, at in results if at == rung} if finite else {}


def _combinations(dimensions: Sequence[Dimension]) -> Iterator[dict[str, Any]]:
    names = [one.name for one in dimensions]
    return (dict(zip(names, values, strict=True)) for values in product(*(one.values for one in dimensions)))


def _study(
    dimensions: Sequence[Dimension], tried: Sequence[Settings], scores: Mapping[int, float], sampler: "BaseSampler"
) -> "Study":
    """A study in memory that knows the scores."""
    import optuna

    study = optuna.create_study(sampler=sampler, direction="maximize")
    distributions = {one.name: _distribution(one) for one in dimensions}
    for number, settings in enumerate(tried):
        if number in scores:
            study.add_trial(
                optuna.trial.create_trial(params=dict(settings), distributions=distributions, value=scores[number])
            )
    return study


def _distribution(one: Dimension) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choices:
        return CategoricalDistribution(one.choices)
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _sampler(name: str, seed: int) -> "BaseSampler":
    from optuna.samplers import QMCSampler, RandomSampler, TPESampler

    if name == "tpe":
        # Candidates of a wave keep apart from each other.
        return TPESampler(seed=seed, constant_liar=True, n_startup_trials=STARTUP)
    if name == "qmc":
        return QMCSampler(seed=seed, scramble=True)
    return RandomSampler(seed=seed)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without Optuna's messages on every study and trial, and its warnings of parts that are new."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
