"""Normalization of scores: the model's own scale has no zero and no unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["standard", "reference"]


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """A score becomes (score - mean) / std; the order of scores stays.

    Attributes:
        mean: of the scores that it was made of.
        std: their standard deviation, above 0; 1 where the mean alone is taken off.
        kind: "standard": mean 0 and deviation 1 over all responses of a set; "reference": the set's preferred
            responses have mean 0 (Stiennon et al. 2020, arXiv 2009.01325).
        num_responses: whose scores it was made of.
        data: name of the set.
    """

    mean: float
    std: float = 1.0
    kind: Kind = "standard"
    num_responses: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean {self.mean} and std {self.std} normalize nothing")

    def apply(self, scores: Sequence[float]) -> tuple[float, ...]:
        """The normalized scores, computed in float64."""
        return tuple((score - self.mean) / self.std for score in scores)

    def __str__(self) -> str:
        which = "responses" if self.kind == "standard" else "preferred responses"
        return f"mean {self.mean:.6g}, std {self.std:.6g} ({self.num_responses:,} {which} of {self.data})"


def normalization_of_pairs(
    *,
    chosen: tuple[float, float],
    rejected: tuple[float, float],
    num_pairs: int,
    kind: Kind,
    data: str,
) -> Normalization:
    """The normalization by a set of pairs.

    Args:
        chosen: mean and standard deviation of the scores of the preferred responses.
        rejected: of the others.

    Raises:
        ValueError: "standard", and all scores are equal.
    """
    if kind == "reference":
        return Normalization(mean=chosen[0], kind=kind, num_responses=num_pairs, data=data)
    # Two groups of equal size: their mean variance, and that of the two means.
    variance = (chosen[1] ** 2 + rejected[1] ** 2) / 2 + ((chosen[0] - rejected[0]) / 2) ** 2
    return Normalization(
        mean=(chosen[0] + rejected[0]) / 2,
        std=math.sqrt(variance),
        kind=kind,
        num_responses=2 * num_pairs,
        data=data,
    )
