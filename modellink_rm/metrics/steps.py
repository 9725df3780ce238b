"""One score of a response from the probabilities that its steps are right."""

import math
from collections.abc import Callable, Mapping, Sequence

# min and product: Lightman et al. 2023 (arXiv 2305.20050, appendix F); last: Snell et al. 2024 (arXiv
# 2408.03314, section 5.1).
AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "product": math.prod,
    "last": lambda probabilities: probabilities[-1],
}


def probability_of(log_odds: float) -> float:
    """1 / (1 + exp(-log_odds)), without overflow."""
    grown = math.exp(-abs(log_odds))
    return (1.0 if log_odds >= 0 else grown) / (1.0 + grown)
