"""Ratings of players from their games, and how far two orders agree."""

import numpy as np

from modellink_rm.metrics.accuracy import Floats
from modellink_rm.metrics.ranks import tied_ranks

_MOST_ITERATIONS = 1000
_SMALLEST = 1e-9  # of a player that never wins


def bradley_terry(wins: Floats) -> Floats:
    """The logarithms of Bradley-Terry strengths [m], of mean 0.

    Hunter 2004 (MM algorithms for generalized Bradley-Terry models), equation 3.

    Args:
        wins: [m, m], how often the row's player beat the column's; a tie is half a win for both.
    """
    games = wins + wins.T
    strengths = np.ones(len(wins))
    for _ in range(_MOST_ITERATIONS):
        expected = (games / (strengths[:, None] + strengths[None, :])).sum(axis=1)
        new = np.maximum(wins.sum(axis=1) / np.maximum(expected, _SMALLEST), _SMALLEST)
        new /= np.exp(np.log(new).mean())
        if np.abs(np.log(new / strengths)).max() < 1e-8:
            return np.asarray(np.log(new), dtype=np.float64)
        strengths = new
    return np.asarray(np.log(strengths), dtype=np.float64)


def pearson(first: Floats, second: Floats) -> float:
    """The correlation of values [n]; NaN if one of both does not vary."""
    one, other = first - first.mean(), second - second.mean()
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else float("nan")


def spearman(first: Floats, second: Floats) -> float:
    """The correlation of tie-averaged ranks."""
    return pearson(tied_ranks(first), tied_ranks(second))


def kendall(first: Floats, second: Floats) -> float:
    """Kendall's tau-b: agreeing minus disagreeing couples, over those that are no tie; NaN without any."""
    rows, columns = np.triu_indices(len(first), k=1)
    one, other = np.sign(first[rows] - first[columns]), np.sign(second[rows] - second[columns])
    size = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / size if size > 0 else float("nan")
