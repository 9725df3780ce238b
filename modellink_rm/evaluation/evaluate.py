"""Models on held-out sets: scores, results, comparisons."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.terminal import progress_bar
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.evaluation.compare import SetComparison, compare_set
from modellink_rm.evaluation.inputs import NamedInput
from modellink_rm.evaluation.results import Comparison, EvaluationResults, ModelResult
from modellink_rm.evaluation.score_sets import ScoredSet, score_set
from modellink_rm.evaluation.sets import set_result
from modellink_rm.inference.plan import ScoringPlan, plan_scoring
from modellink_rm.inference.reader import check_first
from modellink_rm.inference.scorer import Scorer
from modellink_rm.parallel.failures import ending_together


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model with the scored pairs of every set, in the order of the sets."""

    load: str
    sets: tuple[ScoredSet, ...]


def evaluate(
    options: ScorerOptions, others: Sequence[str], sets: Sequence[NamedInput], *, shows_progress: bool = False
) -> EvaluationResults:
    """Evaluate a model, and others with the same flags, on held-out sets; a collective.

    Args:
        others: further values of --load, each compared with the first.

    Raises:
        UserError: a model cannot be scored with, found for all of them before the first is loaded.
        AgreedError: a set has no pair with finite scores.
    """
    loads = [options.scorer.load, *others]
    plans = [plan_scoring(_with_load(options, load)) for load in loads]
    for plan in plans:
        for named in sets:
            check_first(plan.inputs.reader, [next(iter(named.records()))])
    models = [_scored(plan, sets, shows_progress=shows_progress) for plan in plans]
    seed = options.scorer.seed
    return EvaluationResults(
        seed=seed,
        models=tuple(_result(model, sets, seed=seed) for model in models),
        comparisons=tuple(_comparison(models[0], other, sets, seed=seed) for other in models[1:]),
    )


def _with_load(options: ScorerOptions, load: str) -> ScorerOptions:
    return dataclasses.replace(options, scorer=dataclasses.replace(options.scorer, load=load))


def _scored(plan: ScoringPlan, sets: Sequence[NamedInput], *, shows_progress: bool) -> ScoredModel:
    with Scorer(plan) as scorer, ending_together():
        scored = []
        for named in sets:
            with progress_bar(total=None, unit="record", is_shown=shows_progress, desc=named.name) as bar:
                scored.append(score_set(scorer, named, advance=bar.update))
    return ScoredModel(load=plan.options.scorer.load, sets=tuple(scored))


def _result(model: ScoredModel, sets: Sequence[NamedInput], *, seed: int) -> ModelResult:
    results = [
        set_result(named.name, named.path, one.pairs, one.records, one.swap, seed=seed)
        for named, one in zip(sets, model.sets, strict=True)
    ]
    return ModelResult(load=model.load, sets=tuple(results))


def _comparison(
    model: ScoredModel, other: ScoredModel, sets: Sequence[NamedInput], *, seed: int
) -> Comparison:
    compared: list[SetComparison | None] = [
        compare_set(named.name, first.pairs, second.pairs, seed=seed)
        for named, first, second in zip(sets, model.sets, other.sets, strict=True)
    ]
    return Comparison(
        load=model.load, other=other.load, sets=tuple(one for one in compared if one is not None)
    )
