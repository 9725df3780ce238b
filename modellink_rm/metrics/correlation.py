"""Pearson's correlation from sums, which add up over micro-batches and processes."""

import math


def correlation_of_sums(
    count: float, *, first: tuple[float, float], second: tuple[float, float], product: float
) -> float:
    """Pearson's correlation of values of two kinds from sums over `count`; 0 if one kind does not vary.

    Args:
        first: the sum of the values and of their squares.
        second: likewise.
        product: the sum of the products.
    """
    if not count:
        return 0.0
    means = first[0] / count, second[0] / count
    variances = first[1] / count - means[0] ** 2, second[1] / count - means[1] ** 2
    # A variance below the rounding of its two terms is none.
    if any(variance <= 1e-12 * max(mean**2, 1e-300) for variance, mean in zip(variances, means, strict=True)):
        return 0.0
    return (product / count - means[0] * means[1]) / math.sqrt(variances[0] * variances[1])
