"""Models on held-out sets and benchmarks: scores, results, comparisons."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.terminal import progress_bar
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.evaluation.compare import PairedComparison, compare_set
from modellink_rm.evaluation.inputs import NamedInput
from modellink_rm.evaluation.read_benchmarks import BenchmarkInput
from modellink_rm.evaluation.results import Comparison, EvaluationResults, ModelResult
from modellink_rm.evaluation.score_benchmarks import ScoredBenchmark, benchmark_result, score_benchmark
from modellink_rm.evaluation.score_sets import ScoredSet, score_set
from modellink_rm.evaluation.sets import set_result
from modellink_rm.inference.plan import ScoringPlan, plan_scoring
from modellink_rm.inference.reader import check_first
from modellink_rm.inference.scorer import Scorer
from modellink_rm.metrics.paired_test import paired_difference
from modellink_rm.parallel.failures import ending_together


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What is evaluated."""

    sets: tuple[NamedInput, ...]
    benchmarks: tuple[BenchmarkInput, ...]


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model with the scores of every set and benchmark, in the order of the inputs."""

    load: str
    sets: tuple[ScoredSet, ...]
    benchmarks: tuple[ScoredBenchmark, ...]


def evaluate(
    options: ScorerOptions, others: Sequence[str], inputs: EvaluationInputs, *, shows_progress: bool = False
) -> EvaluationResults:
    """Evaluate a model, and others with the same flags; a collective.

    Args:
        others: further values of --load, each compared with the first.

    Raises:
        UserError: a model cannot be scored with, found for all of them before the first is loaded.
        AgreedError: a set has no pair with finite scores, or a row of a benchmark has none.
    """
    loads = [options.scorer.load, *others]
    plans = [plan_scoring(_with_load(options, load)) for load in loads]
    for plan in plans:
        for named in inputs.sets:
            check_first(plan.inputs.reader, [next(iter(named.records()))])
    models = [_scored(plan, inputs, shows_progress=shows_progress) for plan in plans]
    seed = options.scorer.seed
    return EvaluationResults(
        seed=seed,
        models=tuple(_result(model, inputs, seed=seed) for model in models),
        comparisons=tuple(_comparison(models[0], other, inputs, seed=seed) for other in models[1:]),
    )


def _with_load(options: ScorerOptions, load: str) -> ScorerOptions:
    return dataclasses.replace(options, scorer=dataclasses.replace(options.scorer, load=load))


def _scored(plan: ScoringPlan, inputs: EvaluationInputs, *, shows_progress: bool) -> ScoredModel:
    sets, benchmarks = [], []
    with Scorer(plan) as scorer, ending_together():
        for named in inputs.sets:
            with progress_bar(total=None, unit="record", is_shown=shows_progress, desc=named.name) as bar:
                sets.append(score_set(scorer, named, advance=bar.update))
        for rows in inputs.benchmarks:
            total, name = len(rows.rows), rows.named.name
            with progress_bar(total=total, unit="row", is_shown=shows_progress, desc=name) as bar:
                benchmarks.append(score_benchmark(scorer, rows, advance=bar.update))
    return ScoredModel(load=plan.options.scorer.load, sets=tuple(sets), benchmarks=tuple(benchmarks))


def _result(model: ScoredModel, inputs: EvaluationInputs, *, seed: int) -> ModelResult:
    sets = [
        set_result(named.name, named.path, one.pairs, one.records, one.swap, seed=seed)
        for named, one in zip(inputs.sets, model.sets, strict=True)
    ]
    benchmarks = [
        benchmark_result(rows, one, seed=seed)
        for rows, one in zip(inputs.benchmarks, model.benchmarks, strict=True)
    ]
    return ModelResult(load=model.load, sets=tuple(sets), benchmarks=tuple(benchmarks))


def _comparison(model: ScoredModel, other: ScoredModel, inputs: EvaluationInputs, *, seed: int) -> Comparison:
    sets = [
        compare_set(named.name, first.pairs, second.pairs, seed=seed)
        for named, first, second in zip(inputs.sets, model.sets, other.sets, strict=True)
    ]
    benchmarks = [
        PairedComparison(
            name=rows.named.name,
            num_items=len(rows.rows),
            difference=paired_difference(first.score.credits, second.score.credits, seed=seed),
        )
        for rows, first, second in zip(inputs.benchmarks, model.benchmarks, other.benchmarks, strict=True)
    ]
    return Comparison(
        load=model.load,
        other=other.load,
        sets=tuple(one for one in sets if one is not None),
        benchmarks=tuple(benchmarks),
    )
