"""The correctness sets of PPE, from section 5 of arXiv 2410.14872; the benchmark's own code is not public.

Each of the five sets (MMLU-Pro, MATH, GPQA, IFEval, MBPP-Plus) is a file; a directory of them gives the mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.evaluation.benchmarks.benchmark import BenchmarkRow, BenchmarkScore, Part, text_field
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.ranks import area_under_curve
from modellink_rm.records import RecordError

NUM_PERMUTATIONS = 100
_SEED = 1234


@dataclass(frozen=True, kw_only=True)
class CorrectnessLabel:
    """Which responses of a prompt are correct.

    Attributes:
        name: of the set, from its file.
        correct: of each response.
        pairs: sampled pairs of a correct and a wrong response, by index, the correct one first.
    """

    name: str
    correct: tuple[bool, ...]
    pairs: tuple[tuple[int, int], ...]


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A prompt with all of its responses.

    Raises:
        RecordError: a field is missing, or a sampled pair is not of a correct and a wrong response.
    """
    correct, pairs = fields.get("scores"), fields.get("sampled_conflict_pairs")
    if not isinstance(correct, list) or not all(isinstance(one, bool) for one in correct) or not correct:
        raise RecordError("field 'scores' must be a list of booleans, and there is no field 'winner'")
    if not isinstance(pairs, list) or not pairs:
        raise RecordError("field 'sampled_conflict_pairs' must be a list of pairs of indices")
    label = CorrectnessLabel(
        name=f"{file.parent.name}/{file.name}" if file.parent.name else file.name,
        correct=tuple(correct),
        pairs=tuple(_pair(pair, correct) for pair in pairs),
    )
    responses = tuple(text_field(fields, f"response_{number + 1}") for number in range(len(correct)))
    return BenchmarkRow(prompt=text_field(fields, "prompt"), responses=responses, label=label)


def _pair(pair: Any, correct: Sequence[bool]) -> tuple[int, int]:
    """The indices of a pair, the correct response's first."""
    is_pair = isinstance(pair, list) and [type(index) for index in pair] == [int, int]
    if not is_pair or not all(0 <= index < len(correct) for index in pair):
        raise RecordError("field 'sampled_conflict_pairs' must be a list of pairs of indices")
    if correct[pair[0]] == correct[pair[1]]:
        raise RecordError(f"the sampled pair {pair} is not of a correct and a wrong response")
    return (pair[0], pair[1]) if correct[pair[0]] else (pair[1], pair[0])


def score(labels: Sequence[CorrectnessLabel], scores: Sequence[Floats]) -> BenchmarkScore:
    """The mean over sets of the accuracy on sampled pairs, a tie being wrong.

    Each set also has its AUC, scores scaled per prompt to 0 to 1 (0.5 where they are equal) and pooled; and
    of best of K the loss, the maximum and the end of its curve.
    """
    wins = [
        np.array([one[best] > one[worst] for best, worst in label.pairs])
        for label, one in zip(labels, scores, strict=True)
    ]
    names = np.array([label.name for label in labels])
    sets = sorted(set(names.tolist()))
    parts: dict[str, list[Part]] = {}
    weights = np.zeros(len(labels))
    for name in sets:
        rows = np.flatnonzero(names == name).tolist()
        correct = [np.array(labels[row].correct) for row in rows]
        own = [scores[row] for row in rows]
        values = {
            "accuracy": float(np.concatenate([wins[row] for row in rows]).mean()),
            "AUC": area_under_curve(np.concatenate([*map(_scaled, own)]), np.concatenate(correct)),
            **best_of_k(own, correct),
        }
        for kind, value in values.items():
            if value == value:
                parts.setdefault(kind, []).append(Part(name=name, value=value, num_rows=len(rows)))
        weights[rows] = 1.0 / len(rows) / len(sets)
    num_pairs_differ = len({len(one) for one in wins}) > 1
    accuracies = [part.value for part in parts["accuracy"]]
    return BenchmarkScore(
        overall=sum(accuracies) / len(accuracies),
        parts={kind: tuple(found) for kind, found in parts.items()},
        credits=np.array([float(one.mean()) for one in wins]),
        ties=sum(
            any(one[best] == one[worst] for best, worst in label.pairs)
            for label, one in zip(labels, scores, strict=True)
        ),
        strata=tuple(names.tolist()),
        weights=None if num_pairs_differ else weights,
    )


def best_of_k(scores: Sequence[Floats], correct: Sequence[Floats]) -> dict[str, float]:
    """The loss, the maximum and the end of the best-of-K curve; empty if prompts differ in responses.

    The curve at k is the share of correct responses among those with the highest score (the first of
    equals) of the first k, over prompts and 100 seeded orders; the oracle's is the share with any correct
    one. The loss is the mean squared distance of both curves.
    """
    num_responses = {len(one) for one in scores}
    if len(num_responses) > 1:
        return {}
    size = num_responses.pop()
    generator = np.random.default_rng(_SEED)
    curve, oracle = np.zeros(size), np.zeros(size)
    for of_prompt, is_correct in zip(scores, correct, strict=True):
        order = generator.permuted(np.tile(np.arange(size), (NUM_PERMUTATIONS, 1)), axis=1)
        shuffled, right = of_prompt[order], is_correct[order]
        highest = np.maximum.accumulate(shuffled, axis=1)
        is_new = np.ones_like(shuffled, dtype=bool)
        is_new[:, 1:] = shuffled[:, 1:] > highest[:, :-1]
        chosen = np.maximum.accumulate(np.where(is_new, np.arange(size), 0), axis=1)
        curve += np.take_along_axis(right, chosen, axis=1).mean(axis=0)
        oracle += np.logical_or.accumulate(right, axis=1).mean(axis=0)
    curve, oracle = curve / len(scores), oracle / len(scores)
    return {
        "best-of-K loss": float(((oracle - curve) ** 2).mean()),
        "best-of-K maximum": float(curve.max()),
        "best-of-K end": float(curve[-1]),
    }


def _scaled(scores: Floats) -> Floats:
    """The scores of a prompt from 0 to 1."""
    low, high = scores.min(), scores.max()
    return np.full(len(scores), 0.5) if low == high else (scores - low) / (high - low)
