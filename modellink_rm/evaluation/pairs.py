"""Scored pairs as arrays."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modellink_rm.inference.result import Scored
from modellink_rm.metrics.accuracy import Floats, pair_credits


@dataclass(frozen=True, kw_only=True)
class EvaluatedPairs:
    """n pairs with their scores.

    Attributes:
        numbers: int64 [n], each pair's number among the records of its set; ascending.
        chosen: float64 [n], scores of the preferred responses.
        rejected: float64 [n], scores of the others.
        chosen_length: int64 [n], of the response's text, in characters.
        rejected_length: as `chosen_length`.
        margins: float64 [n], by how much the data prefers chosen; NaN where it does not say.
        sources: [n], where each pair comes from; None where the record does not say.
    """

    numbers: NDArray[np.int64]
    chosen: Floats
    rejected: Floats
    chosen_length: NDArray[np.int64]
    rejected_length: NDArray[np.int64]
    margins: Floats
    sources: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def credits(self) -> Floats:
        """What each pair adds to the accuracy [n]."""
        return pair_credits(self.chosen, self.rejected)

    @property
    def length_credits(self) -> Floats:
        """What each pair adds to the accuracy of choosing the longer response [n]."""
        return pair_credits(self.chosen_length, self.rejected_length)


@dataclass
class PairCollector:
    """Collects pairs one by one."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, number: int, result: Scored) -> None:
        """Add the scored pair with that number among the records."""
        assert result.is_pair, "only pairs are evaluated"
        chosen, rejected = result.conversation.responses
        margins = result.conversation.margins
        self.rows.append(
            (
                number,
                *result.scores,
                len(chosen.content),
                len(rejected.content),
                float("nan") if margins is None else margins[-1],
                result.conversation.source,
            )
        )

    def pairs(self) -> EvaluatedPairs:
        """All pairs so far."""
        columns = list(zip(*self.rows, strict=True)) or [()] * 7
        return EvaluatedPairs(
            numbers=np.array(columns[0], dtype=np.int64),
            chosen=np.array(columns[1], dtype=np.float64),
            rejected=np.array(columns[2], dtype=np.float64),
            chosen_length=np.array(columns[3], dtype=np.int64),
            rejected_length=np.array(columns[4], dtype=np.int64),
            margins=np.array(columns[5], dtype=np.float64),
            sources=tuple(columns[6]),
        )
