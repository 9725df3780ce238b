"""Models on held-out sets and benchmarks: scores, results, comparisons."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import AgreedError
from modellink_rm.base.files import version_of
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.evaluation.compare import PairedComparison, compare_set
from modellink_rm.evaluation.inputs import NamedInput
from modellink_rm.evaluation.overlap import (
    ComparedItems,
    Item,
    TrainingOverlap,
    grams_of,
    items_of,
    overlapping,
    training_overlap,
)
from modellink_rm.evaluation.read_benchmarks import BenchmarkInput
from modellink_rm.evaluation.results import Comparison, EvaluationResults, ModelResult
from modellink_rm.evaluation.score_benchmarks import ScoredBenchmark, benchmark_result, score_benchmark
from modellink_rm.evaluation.score_sets import ScoredSet, score_set
from modellink_rm.evaluation.sets import set_result
from modellink_rm.inference.plan import ScoringPlan, plans_of_models
from modellink_rm.inference.reader import RecordReader, check_first
from modellink_rm.inference.scorer import Scorer
from modellink_rm.metrics.paired_test import paired_difference
from modellink_rm.parallel.failures import ending_together
from modellink_rm.preprocess.report import Progress, progress_over
from modellink_rm.records import read_records


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """What is evaluated.

    Attributes:
        training_data: paths of records that it is compared with.
        limits: of these records.
    """

    sets: tuple[NamedInput, ...]
    benchmarks: tuple[BenchmarkInput, ...]
    training_data: tuple[str, ...] = ()
    limits: Limits = DEFAULT_LIMITS


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
        AgreedError: a set has no pair with finite scores, or a row of a benchmark has none; or a set was
            changed meanwhile.
    """
    plans = plans_of_models([options, *(_of_another(options, load) for load in others)])
    for plan in plans:
        for named in inputs.sets:
            check_first(plan.inputs.reader, [next(iter(named.records()))])
    versions = _versions(inputs)
    compared = _compared(plans[0].inputs.reader, inputs)
    models = [_scored(plan, inputs, shows_progress=shows_progress) for plan in plans]
    if _versions(inputs) != versions:  # each model reads them, and one is compared with another row by row
        raise AgreedError("a file of --data was changed while it was evaluated: evaluate again")
    seed = options.scorer.seed
    return EvaluationResults(
        seed=seed,
        models=tuple(_result(model, inputs, seed=seed) for model in models),
        comparisons=tuple(_comparison(models[0], other, inputs, seed=seed) for other in models[1:]),
        overlaps=tuple(_overlaps(models[0], inputs, compared)),
    )


def _versions(inputs: EvaluationInputs) -> list[object]:
    """What changes when a file of a set does."""
    return [version_of(path) for named in inputs.sets for path in named.files()]


def _of_another(options: ScorerOptions, load: str) -> ScorerOptions:
    """The flags for another model, which has no adapters of this one."""
    scorer = dataclasses.replace(options.scorer, load=load, load_adapter=None)
    return dataclasses.replace(options, scorer=scorer)


def _scored(plan: ScoringPlan, inputs: EvaluationInputs, *, shows_progress: bool) -> ScoredModel:
    sets, benchmarks = [], []
    with Scorer(plan) as scorer, ending_together():
        for named in inputs.sets:
            with progress_over(named.files(), is_shown=shows_progress, name=named.name) as took:
                sets.append(score_set(scorer, named, took=took))
        for rows in inputs.benchmarks:
            benchmarks.append(_scored_benchmark(scorer, rows, shows_progress=shows_progress))
    return ScoredModel(load=plan.options.scorer.load, sets=tuple(sets), benchmarks=tuple(benchmarks))


def _scored_benchmark(scorer: Scorer, rows: BenchmarkInput, *, shows_progress: bool) -> ScoredBenchmark:
    num_rows, name = len(rows.rows), rows.named.name
    with Progress(num_rows, log_interval=1, is_shown=shows_progress, name=name) as progress:
        return score_benchmark(
            scorer, rows, advance=lambda done: progress.add(num_records=done, num_bytes=done, bad=[])
        )


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


def _compared(reader: RecordReader, inputs: EvaluationInputs) -> list[ComparedItems]:
    """Every set and then every benchmark compared with the training data; [] where none is given."""
    if not inputs.training_data:
        return []
    of_sets = [list(items_of(reader, named.records())) for named in inputs.sets]
    of_benchmarks = [
        [
            Item(number=number, place=one.place, grams=grams_of(one.conversation))
            for number, one in enumerate(rows.conversations())
        ]
        for rows in inputs.benchmarks
    ]
    training = read_records(inputs.training_data, inputs.limits, flag="--training-data")
    return overlapping(reader, training, of_sets + of_benchmarks)


def _overlaps(
    model: ScoredModel, inputs: EvaluationInputs, compared: Sequence[ComparedItems]
) -> list[TrainingOverlap]:
    if not compared:
        return []
    names = [one.name for one in inputs.sets] + [one.named.name for one in inputs.benchmarks]
    of_sets = [
        dict(zip(one.pairs.numbers.tolist(), one.pairs.credits.tolist(), strict=True)) for one in model.sets
    ]
    of_benchmarks = [dict(enumerate(one.score.credits.tolist())) for one in model.benchmarks]
    return [
        training_overlap(name, one, credits)
        for name, one, credits in zip(names, compared, of_sets + of_benchmarks, strict=True)
    ]
