"""Scores on a scale of their own."""

import numpy as np
import pytest

from modellink_rm.metrics.normalization import Normalization, normalization_of_pairs

CHOSEN, REJECTED = np.array([1.0, 4.0, -2.0, 8.0]), np.array([0.0, 4.5, -3.0, 2.0])


def of(kind: str) -> Normalization:
    return normalization_of_pairs(
        chosen=(CHOSEN.mean(), CHOSEN.std()),
        rejected=(REJECTED.mean(), REJECTED.std()),
        num_pairs=4,
        kind="standard" if kind == "standard" else "reference",
        data="held-out",
    )


def test_all_responses_have_mean_0_and_deviation_1() -> None:
    together = np.concatenate([CHOSEN, REJECTED])
    found = of("standard")
    assert (found.mean, found.std) == pytest.approx((together.mean(), together.std()), rel=1e-12)
    assert found.apply(tuple(together)) == pytest.approx((together - together.mean()) / together.std())
    assert found.num_responses == 8


def test_reference_responses_have_mean_0_and_the_unit_stays() -> None:
    found = of("reference")
    scores = found.apply(tuple(CHOSEN))
    assert np.mean(scores) == pytest.approx(0, abs=1e-12)
    assert np.diff(scores) == pytest.approx(np.diff(CHOSEN))
    assert (found.std, found.num_responses) == (1.0, 4)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_what_normalizes_nothing_is_refused(mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="normalize nothing"):
        Normalization(mean=mean, std=std)
