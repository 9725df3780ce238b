"""Normalization of scores: the model's own scale has no zero and no unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


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
    kind: Literal["standard", "reference"] = "standard"
    num_responses: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"a normalization by mean {self.mean} and std {self.std}")

    def apply(self, scores: Sequence[float]) -> tuple[float, ...]:
        """The normalized scores, computed in float64."""
        return tuple((score - self.mean) / self.std for score in scores)

    def __str__(self) -> str:
        return f"mean {self.mean:.6g}, std {self.std:.6g} ({self.num_responses:,} responses of {self.data})"


def standard_normalization(scores: NDArray[np.float64], *, data: str) -> Normalization:
    """Mean 0 and standard deviation 1 over these scores.

    Raises:
        ValueError: all scores are equal.
    """
    std = float(scores.std())
    if not std > 0:
        raise ValueError(f"all {len(scores)} scores are equal: they have no standard deviation")
    return Normalization(
        mean=float(scores.mean()), std=std, kind="standard", num_responses=len(scores), data=data
    )


def reference_normalization(scores: NDArray[np.float64], *, data: str) -> Normalization:
    """Mean 0 over these scores, of reference responses; the unit stays."""
    return Normalization(mean=float(scores.mean()), kind="reference", num_responses=len(scores), data=data)
