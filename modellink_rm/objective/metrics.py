"""What is known of a set of scored pairs, as sums that add up over batches and processes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.batching.batch import Batch

# Positions in the vector of sums.
_FIELDS = (
    "examples",
    "loss",
    "correct",
    "ties",
    "chosen",
    "chosen_squared",
    "rejected",
    "rejected_squared",
    "tokens",
    "computed",
    "padding",
    "truncated",
    "flops",
)
NUM_SUMS = len(_FIELDS)


def pair_sums(losses: Tensor, chosen: Tensor, rejected: Tensor, batch: Batch, *, flops: int = 0) -> Tensor:
    """Sums over pairs [NUM_SUMS], float64, of losses [n], chosen [n] and rejected scores [n].

    Args:
        flops: model FLOPs that the batch took, where they are counted.
    """
    chosen, rejected = chosen.double(), rejected.double()
    return torch.stack(
        [
            torch.full_like(chosen, 1.0).sum(),
            losses.double().sum(),
            (chosen > rejected).double().sum() + 0.5 * (chosen == rejected).double().sum(),
            (chosen == rejected).double().sum(),
            chosen.sum(),
            chosen.square().sum(),
            rejected.sum(),
            rejected.square().sum(),
            *(
                chosen.new_full((), count)
                for count in (
                    batch.num_tokens,
                    batch.num_computed_tokens,
                    batch.num_padding,
                    batch.num_truncated,
                    flops,
                )
            ),
        ]
    )


@dataclass(frozen=True)
class PairMetrics:
    """Means over pairs.

    Attributes:
        accuracy: the part whose chosen score is above the rejected one; a tie counts half.
        ties: pairs with two equal scores.
        chosen_std: standard deviation of the chosen scores (of the population).
        num_tokens: tokens of all pairs, the prompt counted for each side.
        num_computed_tokens: tokens that the model computed, a shared prompt once.
        num_padding: tokens added so that tensor-parallel processes get equal shares.
        num_truncated: pairs that tokens were cut from.
        flops: model FLOPs of all processes together; 0 for evaluations.
    """

    num_examples: int
    loss: float
    accuracy: float
    ties: int
    chosen_score: float
    chosen_std: float
    rejected_score: float
    rejected_std: float
    num_tokens: int
    num_computed_tokens: int
    num_padding: int
    num_truncated: int
    flops: float

    @property
    def margin(self) -> float:
        """Mean of chosen minus rejected score."""
        return self.chosen_score - self.rejected_score


def metrics_from_sums(sums: Tensor) -> PairMetrics:
    """Means of sums [NUM_SUMS] over at least one pair."""
    total = dict(zip(_FIELDS, sums.tolist(), strict=True))
    count = total["examples"]
    chosen, rejected = total["chosen"] / count, total["rejected"] / count
    return PairMetrics(
        num_examples=round(count),
        loss=total["loss"] / count,
        accuracy=total["correct"] / count,
        ties=round(total["ties"]),
        chosen_score=chosen,
        chosen_std=math.sqrt(max(total["chosen_squared"] / count - chosen**2, 0.0)),
        rejected_score=rejected,
        rejected_std=math.sqrt(max(total["rejected_squared"] / count - rejected**2, 0.0)),
        num_tokens=round(total["tokens"]),
        num_computed_tokens=round(total["computed"]),
        num_padding=round(total["padding"]),
        num_truncated=round(total["truncated"]),
        flops=total["flops"],
    )
