"""How far the probabilities that a reward model implies are those that come true."""

from dataclasses import dataclass

import numpy as np

from modellink_rm.metrics.accuracy import Floats, pair_credits

NUM_BINS = 10


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The pairs whose confidence lies in [low, high), in the last bin up to high.

    Attributes:
        confidence: their mean confidence.
        accuracy: theirs.
    """

    low: float
    high: float
    num_pairs: int
    confidence: float
    accuracy: float


def log_losses(chosen: Floats, rejected: Floats) -> Floats:
    """-log sigmoid(chosen - rejected) of each pair [n]: the loss `sigmoid` in float64."""
    losses: Floats = np.logaddexp(0.0, rejected - chosen)
    return losses


def confidences(chosen: Floats, rejected: Floats) -> Floats:
    """sigmoid(|chosen - rejected|) [n]: the probability that the model gives to its own preference."""
    found: Floats = 1.0 / (1.0 + np.exp(-np.abs(chosen - rejected)))
    return found


def reliability_curve(chosen: Floats, rejected: Floats, *, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Confidence and accuracy of pairs in bins of equal width from 0.5 to 1; empty bins are left out."""
    confidence, credit = confidences(chosen, rejected), pair_credits(chosen, rejected)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    bins = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, num_bins - 1)
    return [
        ReliabilityBin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            num_pairs=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(credit[inside].mean()),
        )
        for number in range(num_bins)
        if (inside := bins == number).any()
    ]


def expected_calibration_error(curve: list[ReliabilityBin]) -> float:
    """The mean distance of accuracy and confidence over the pairs of a curve.

    Naeini et al. 2015 (Obtaining well calibrated probabilities using Bayesian binning); Guo et al. 2017
    (arXiv 1706.04599, eq. 3).
    """
    num_pairs = sum(one.num_pairs for one in curve)
    return sum(one.num_pairs * abs(one.accuracy - one.confidence) for one in curve) / num_pairs
