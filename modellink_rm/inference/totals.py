"""Counts over the inputs of `score`, and its summary."""

from dataclasses import dataclass

from modellink_rm.base.errors import AgreedError
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.metrics.accuracy import accuracy
from modellink_rm.records.row_parts import RowCounts


class NoFiniteScoreError(AgreedError):
    """Every score is NaN or infinite."""


@dataclass
class Totals(RowCounts):
    """Counts and sums over the inputs so far."""

    not_finite: int = 0
    truncated: int = 0
    pairs: int = 0
    wins: int = 0
    ties: int = 0
    margin: float = 0.0
    responses: int = 0
    score: float = 0.0

    def add(self, result: Scored | NotScored) -> None:
        """Count one input."""
        self.inputs += 1
        if isinstance(result, NotScored):
            self.bad += 1
            self.not_finite += result.reason == NOT_FINITE
            return
        self.truncated += result.is_truncated
        if not result.is_pair:
            self.responses += len(result.scores)
            self.score += sum(result.scores)
            return
        chosen, rejected = result.scores
        self.pairs += 1
        self.wins += chosen > rejected
        self.ties += chosen == rejected
        self.margin += chosen - rejected

    def lines(self) -> list[str]:
        """The summary, printed at the end."""
        lines = []
        if self.pairs:
            share = accuracy(self.wins, self.ties, self.pairs)
            lines.append(
                f"pairs: {self.pairs} | accuracy: {share:.4f} | "
                f"mean margin: {self.margin / self.pairs:.4f} | ties: {self.ties}"
            )
        if self.responses:
            lines.append(f"responses: {self.responses} | mean score: {self.score / self.responses:.4f}")
        not_finite = f" ({self.not_finite} not finite)" if self.not_finite else ""
        lines.append(
            f"inputs: {self.inputs} | truncated: {self.truncated} | not scored: {self.bad}{not_finite}"
        )
        return lines

    def check_some_finite(self) -> None:
        """Some score is finite, or the records themselves are at fault.

        Raises:
            NoFiniteScoreError: every score is NaN or infinite.
        """
        if self.not_finite and self.not_finite == self.bad == self.inputs:
            raise NoFiniteScoreError(
                f"no score of the {self.inputs} inputs is finite: most likely the weights of --load are "
                "damaged, or of another model than its config.json says; load an earlier checkpoint"
            )
