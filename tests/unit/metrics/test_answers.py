"""Win rates and equal-length comparisons, worked out by hand and on answers whose truth is known."""

import numpy as np
import pytest

from modellink_rm.metrics.answers import (
    Answers,
    equal_length_difference,
    longer_credits,
    variance_explained,
    win_credits,
)


def answers(*of_prompts: list[tuple[float, float]]) -> Answers:
    """Answers as (score, length), by prompt."""
    flat = [one for prompt in of_prompts for one in prompt]
    return Answers(
        prompts=np.repeat(np.arange(len(of_prompts)), list(map(len, of_prompts))),
        scores=np.array([score for score, _ in flat]),
        lengths=np.array([length for _, length in flat]),
    )


FIRST = answers([(1.0, 10), (3.0, 20)], [(0.0, 5)])
SECOND = answers([(2.0, 21), (3.0, 40)], [(1.0, 50)])


def test_every_pair_of_a_prompt_counts_and_every_prompt_counts_once() -> None:
    # 1 loses to both, 3 beats one and ties with the other; the second prompt is lost.
    assert win_credits(FIRST, SECOND).tolist() == [1.5 / 4, 0.0]
    assert longer_credits(FIRST, SECOND).tolist() == [0.0, 0.0]
    assert longer_credits(SECOND, FIRST).tolist() == [1.0, 1.0]


def test_only_pairs_of_similar_length_count_where_that_is_asked() -> None:
    # 20 and 21 differ by a twentieth; no other pair does by less than a tenth.
    assert win_credits(FIRST, SECOND, only_similar=True).tolist() == [1.0]


def test_similar_lengths_differ_by_a_tenth_of_the_longer_at_most() -> None:
    short, long = answers([(1.0, 18)]), answers([(0.0, 20)])
    assert win_credits(short, long, only_similar=True).tolist() == [1.0]
    assert win_credits(long, short, only_similar=True).tolist() == [0.0]


def test_means_are_of_each_prompt() -> None:
    assert FIRST.means(FIRST.scores).tolist() == [2.0, 0.0]
    assert [one.tolist() for one in FIRST.of_each_prompt(FIRST.lengths)] == [[10, 20], [5]]


def drawn(generator: np.random.Generator, *, mean_length: float, per_token: float, better: float) -> Answers:
    """One answer to each of 400 prompts, whose score is a line over its length, better by so much."""
    lengths = generator.normal(mean_length, 10, size=400).round().clip(1)
    scores = per_token * lengths + better + generator.normal(0, 0.1, size=400)
    return Answers(prompts=np.arange(400), scores=scores, lengths=lengths)


def test_a_policy_that_is_only_longer_is_not_better_at_equal_length() -> None:
    generator = np.random.default_rng(0)
    base = drawn(generator, mean_length=50, per_token=0.1, better=0.0)
    longer = drawn(generator, mean_length=60, per_token=0.1, better=0.0)
    assert longer.scores.mean() - base.scores.mean() == pytest.approx(1.0, abs=0.2)
    found = equal_length_difference(longer, base, seed=1)
    # Bins of ten tokens hold answers of different lengths: a tenth of the difference is left.
    assert found.difference.value == pytest.approx(0.0, abs=0.2)
    assert found.covered > 0.95
    assert win_credits(longer, base).mean() > 0.65
    assert win_credits(longer, base, only_similar=True).mean() == pytest.approx(0.5, abs=0.15)


def test_a_better_policy_is_better_at_equal_length_though_it_is_shorter() -> None:
    generator = np.random.default_rng(1)
    base = drawn(generator, mean_length=60, per_token=0.1, better=0.0)
    better = drawn(generator, mean_length=50, per_token=0.1, better=2.0)
    found = equal_length_difference(better, base, seed=1).difference
    assert found.low <= 2.0 <= found.high + 0.2
    assert found.value == pytest.approx(2.0, abs=0.2)
    assert better.scores.mean() - base.scores.mean() == pytest.approx(1.0, abs=0.2)


def test_bins_of_length_weigh_as_the_first_policys_answers() -> None:
    # 1 better in the bin of short answers, 3 better in that of long ones.
    first = answers([(1.0, 10)], [(1.0, 10)], [(1.0, 10)], [(3.0, 100)])
    second = answers([(0.0, 10)], [(0.0, 100)], [(0.0, 100)], [(0.0, 100)])
    forth, back = (equal_length_difference(*both, seed=1) for both in ((first, second), (second, first)))
    assert forth.difference is not None
    assert back.difference is not None
    assert (forth.difference.value, back.difference.value) == ((3 * 1 + 3) / 4, -(1 + 3 * 3) / 4)


def test_policies_of_no_common_length_are_not_compared_at_equal_length() -> None:
    short, long = answers([(1.0, 1)], [(1.0, 2)]), answers([(2.0, 100)], [(2.0, 200)])
    found = equal_length_difference(short, long, seed=1)
    assert found.difference is None
    assert found.covered == 0
    assert len(win_credits(short, long, only_similar=True)) == 0


def test_length_explains_what_a_line_does() -> None:
    lengths = np.arange(10.0)
    assert variance_explained(lengths, 3 - 2 * lengths) == pytest.approx(1.0)
    assert variance_explained(lengths, np.ones(10)) == 0
    assert variance_explained(np.ones(10), lengths) == 0
