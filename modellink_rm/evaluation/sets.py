"""The results of a held-out set, from its scored pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modellink_rm.evaluation.groups import Group, groups_by_length, groups_by_margin, groups_by_source
from modellink_rm.evaluation.pairs import EvaluatedPairs
from modellink_rm.metrics.accuracy import pair_credits
from modellink_rm.metrics.bootstrap import Estimate, estimate_mean
from modellink_rm.metrics.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    log_losses,
    reliability_curve,
)
from modellink_rm.metrics.ranks import area_under_curve


@dataclass(frozen=True, kw_only=True)
class SwapCheck:
    """Pairs of a set scored a second time with their responses exchanged.

    Attributes:
        accuracy: of these pairs, as they stand in the set.
        swapped_accuracy: of the exchanged ones, whose first response counts as chosen; 1 - `accuracy`
            if a score depends on the prompt and the response alone.
        largest_difference: of a response's two scores.
    """

    num_pairs: int
    accuracy: float
    swapped_accuracy: float
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class RecordCounts:
    """The records of a set.

    Attributes:
        total: all of them.
        truncated: pairs of which tokens were cut.
        not_scored: how many records have no score or are no pair, by reason.
    """

    total: int
    truncated: int
    not_scored: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """What is known of a model on a set.

    Attributes:
        accuracy: the share of pairs whose chosen score is above the rejected one; a tie counts half.
        ties: pairs of two equal scores.
        longer_accuracy: accuracy of choosing the longer response, in characters; equal lengths count half.
        loss: mean of -log sigmoid(chosen - rejected).
        ece: expected calibration error of sigmoid(|chosen - rejected|) as the confidence in the preference.
        auc: how often a chosen response scores above a rejected one of any pair; below the accuracy where
            scores of different prompts cannot be compared.
        by_source: () where records name no source.
        by_margin: () where records have no margin.
    """

    name: str
    path: str
    records: RecordCounts
    num_pairs: int
    accuracy: Estimate
    ties: int
    longer_accuracy: float
    loss: Estimate
    ece: float
    auc: float
    chosen_score: float
    chosen_std: float
    rejected_score: float
    rejected_std: float
    margin: float
    swap: SwapCheck
    reliability: tuple[ReliabilityBin, ...]
    by_source: tuple[Group, ...]
    by_length_difference: tuple[Group, ...]
    by_margin: tuple[Group, ...]


def set_result(
    name: str, path: str, pairs: EvaluatedPairs, records: RecordCounts, swap: SwapCheck, *, seed: int
) -> SetResult:
    """The results of at least one pair; `seed` is the bootstrap's."""
    chosen, rejected = pairs.chosen, pairs.rejected
    reliability = reliability_curve(chosen, rejected)
    is_chosen = np.arange(2 * len(pairs)) < len(pairs)
    return SetResult(
        name=name,
        path=path,
        records=records,
        num_pairs=len(pairs),
        accuracy=estimate_mean(pairs.credits, seed=seed),
        ties=int((chosen == rejected).sum()),
        longer_accuracy=float(pairs.length_credits.mean()),
        loss=estimate_mean(log_losses(chosen, rejected), seed=seed),
        ece=expected_calibration_error(reliability),
        auc=area_under_curve(np.concatenate([chosen, rejected]), is_chosen),
        chosen_score=float(chosen.mean()),
        chosen_std=float(chosen.std()),
        rejected_score=float(rejected.mean()),
        rejected_std=float(rejected.std()),
        margin=float((chosen - rejected).mean()),
        swap=swap,
        reliability=tuple(reliability),
        by_source=tuple(groups_by_source(pairs, seed=seed)),
        by_length_difference=tuple(groups_by_length(pairs, seed=seed)),
        by_margin=tuple(groups_by_margin(pairs, seed=seed)),
    )


def swap_check(scores: Sequence[tuple[float, ...]], swapped: Sequence[tuple[float, ...]]) -> SwapCheck:
    """Compare the scores of pairs with those of the exchanged pairs, whose rejected score comes first."""
    as_given, exchanged = np.array(scores), np.array(swapped)
    return SwapCheck(
        num_pairs=len(as_given),
        accuracy=float(pair_credits(as_given[:, 0], as_given[:, 1]).mean()),
        swapped_accuracy=float(pair_credits(exchanged[:, 0], exchanged[:, 1]).mean()),
        largest_difference=float(np.abs(as_given - exchanged[:, ::-1]).max()),
    )
