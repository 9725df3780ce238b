"""ProcessBench: Zheng et al. 2024, arXiv 2412.06559.

Data: the four files of Qwen/ProcessBench, split by their names; formula: code/run_eval_prm_trl.py of
github.com/QwenLM/ProcessBench, whose argmax over two labels is a probability above one half here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.evaluation.benchmarks.benchmark import (
    BENCHMARKS,
    Benchmark,
    BenchmarkRow,
    BenchmarkScore,
    Part,
    missing_note,
    text_field,
    texts_field,
)
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.records import RecordError

SUBSETS = ("gsm8k", "math", "olympiadbench", "omnimath")
_NO_ERROR = -1
_EVEN = 0.5


@dataclass(frozen=True, kw_only=True)
class RowLabel:
    """Of a solution: its subset, and the index of its first wrong step, -1 if all are right."""

    subset: str
    first_error: int


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A problem with the steps of a solution, labelled with its first wrong one.

    The subset is the beginning of the id, as in "gsm8k-0".

    Raises:
        RecordError: a field is missing or has an unknown value.
    """
    given, steps, first_error = text_field(fields, "id"), texts_field(fields, "steps"), fields.get("label")
    subset = given.rpartition("-")[0]
    if subset not in SUBSETS:
        raise RecordError(f"field 'id' is {given!r}, which begins with none of {', '.join(SUBSETS)}")
    if type(first_error) is not int or not _NO_ERROR <= first_error < len(steps):
        raise RecordError("field 'label' must be the index of a step, or -1")
    return BenchmarkRow(
        prompt=text_field(fields, "problem"),
        responses=steps,
        label=RowLabel(subset=subset, first_error=first_error),
        is_stepwise=True,
    )


def score(labels: Sequence[RowLabel], scores: Sequence[Floats]) -> BenchmarkScore:
    """The mean over the subsets of the F1: the harmonic mean of two accuracies.

    One is that of finding the first wrong step of the solutions that have one, the other that of finding none
    in the others. The model finds the first step whose probability is one half or less. A subset that lacks
    one kind of solutions, or in which a kind has no hit, has an F1 of 0.
    """
    found = np.array([_first_wrong(one) for one in scores])
    expected = np.array([label.first_error for label in labels])
    hits = (found == expected).astype(np.float64)
    subsets = np.array([label.subset for label in labels])
    parts: dict[str, list[Part]] = {"F1": [], "with an error": [], "without": []}
    for name in SUBSETS:
        of_subset = subsets == name
        if not of_subset.any():
            continue
        kinds = {
            "with an error": of_subset & (expected != _NO_ERROR),
            "without": of_subset & (expected == _NO_ERROR),
        }
        accuracies = [_accuracy(hits[mask]) for mask in kinds.values()]
        parts["F1"].append(Part(name=name, value=_harmonic_mean(*accuracies), num_rows=int(of_subset.sum())))
        for (kind, mask), value in zip(kinds.items(), accuracies, strict=True):
            parts[kind].append(Part(name=name, value=value, num_rows=int(mask.sum())))
    return BenchmarkScore(
        overall=float(np.mean([part.value for part in parts["F1"]])),
        parts={kind: tuple(found) for kind, found in parts.items()},
        credits=hits,
        ties=0,
        notes=missing_note("subsets", parts["F1"], SUBSETS),
    )


def _first_wrong(probabilities: Floats) -> int:
    wrong = np.flatnonzero(probabilities <= _EVEN)
    return int(wrong[0]) if len(wrong) else _NO_ERROR


def _accuracy(hits: Floats) -> float:
    return float(hits.mean()) if len(hits) else 0.0


def _harmonic_mean(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


BENCHMARKS.add(Benchmark(row=read_row, score=score), "processbench")
