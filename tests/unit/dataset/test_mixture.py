"""Mixtures of data sets: their shares, and the turns in which samples are read of them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modellink_rm.config.data import DataConfig
from modellink_rm.dataset.mixture import _BLOCK, Mixture, Turns, mixture_of, names_of
from modellink_rm.dataset.order import MixtureOrder, SampleOrder, order_of


def mixture(sizes: tuple[int, ...], **flags: object) -> Mixture:
    words = flags.pop("data_path", tuple("abcdefgh"[: len(sizes)]))
    config = DataConfig(data_path=words, **flags)  # type: ignore[arg-type]
    return mixture_of(config, config.prefixes, sizes)


@settings(max_examples=50)
@given(weights=st.lists(st.integers(1, 40), min_size=1, max_size=7))
def test_at_every_prefix_each_data_set_has_its_share_up_to_less_than_a_sample(weights: list[int]) -> None:
    total, counts = sum(weights), [0] * len(weights)
    for length, (source, before) in enumerate(Turns(weights).between(0, 2 * total + 3), start=1):
        assert before == counts[source]
        counts[source] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count * total - weight * length) < total


def test_of_the_turns_that_may_come_next_the_one_whose_window_ends_first_comes() -> None:
    # The windows of a are 0 to 8; of b 0 to 3, 2 to 6, 5 to 8; of c 0 to 2, 2 to 4, 4 to 6, 6 to 8.
    assert ["abc"[source] for source, _ in Turns((1, 3, 4)).between(0, 8)] == list("cbcbcabc")


# The turns of several blocks.
LONG = (20_000, 5_001, 333, 7, 7, 7, 1)


def test_turns_of_any_range_are_those_of_the_whole_order() -> None:
    start = 2 * _BLOCK - 5
    whole = list(Turns(LONG).between(0, start + 20))
    assert list(Turns(LONG).between(start, start + 20)) == whole[start:]
    period = sum(LONG)
    later = list(Turns(LONG).between(2 * period + start, 2 * period + start + 20))
    assert later == [(source, 2 * LONG[source] + before) for source, before in whole[start:]]


def test_data_sets_are_mixed_by_their_rows_without_a_flag() -> None:
    found = mixture((300, 100))
    assert (found.weights, found.shares(), found.epoch_size) == ((3, 1), (0.75, 0.25), 400)
    assert found.epochs(800) == (2.0, 2.0)


def test_weights_are_taken_exactly() -> None:
    found = mixture((300, 100), data_path=("0.3", "a", "0.6", "b"))
    assert (found.weights, found.epoch_size) == ((1, 2), 400)
    assert found.epochs(300) == pytest.approx((1 / 3, 2.0))


def test_temperature_evens_out_the_sizes() -> None:
    # sqrt(90000) to sqrt(10000) is 3 to 1.
    assert mixture((90_000, 10_000), data_temperature=2.0).shares() == (0.75, 0.25)
    assert mixture((90_000, 10_000), data_temperature=1.0).shares() == (0.9, 0.1)
    assert mixture((90_000, 10_000), data_temperature=1e9).shares() == pytest.approx((0.5, 0.5), abs=1e-6)


def test_epochs_of_each_data_set_are_read_in_an_epoch_of_the_run() -> None:
    found = mixture((40, 10), data_epochs=(0.5, 2.0))
    assert (found.epoch_size, found.weights, found.epochs(found.epoch_size)) == (40, (1, 1), (0.5, 2.0))
    read = Counter(MixtureOrder(mixture=found, shuffle=True, seed=1).samples(0, 40))
    assert [read[index] for index in range(40, 50)] == [2] * 10
    assert sorted(read[index] for index in range(40)) == [0] * 20 + [1] * 20


def test_a_data_set_is_read_whole_before_it_is_read_again() -> None:
    order = MixtureOrder(mixture=mixture((5, 7), data_path=("1", "a", "1", "b")), shuffle=True, seed=3)
    indices = list(order.samples(0, 70))
    for rows in (range(5), range(5, 12)):
        read = [index for index in indices if index in rows]
        epochs = [read[start : start + len(rows)] for start in range(0, 35, len(rows))]
        assert all(sorted(epoch) == list(rows) for epoch in epochs)
        assert epochs[0] != epochs[1]
    assert list(order.samples(33, 50)) == indices[33:50]


def test_one_data_set_is_read_in_the_order_that_it_had_before_mixtures() -> None:
    plain = SampleOrder(num_examples=30, shuffle=True, seed=7)
    assert list(order_of(mixture((30,)), shuffle=True, seed=7).samples(0, 70)) == list(plain.samples(0, 70))


def test_data_sets_that_are_neither_shuffled_nor_weighted_follow_each_other() -> None:
    assert list(order_of(mixture((3, 2)), shuffle=False, seed=7).samples(0, 7)) == [0, 1, 2, 3, 4, 0, 1]
    weighted = mixture((3, 2), data_path=("1", "a", "1", "b"))
    assert list(order_of(weighted, shuffle=False, seed=7).samples(0, 7)) == [0, 3, 1, 4, 2, 3, 0]


def test_names_of_data_sets_are_short_and_differ() -> None:
    assert names_of(["data/hh/pairs", "data/safe/pairs", "data/math"]) == ("hh.pairs", "safe.pairs", "math")
    assert names_of(["/pairs", "a/pairs"]) == (".pairs", "a.pairs")
    assert names_of(["hh.pairs", "hh/pairs", "a/pairs"]) == ("hh.pairs", "hh.pairs'", "a.pairs")


@pytest.mark.parametrize(("temperature", "weights"), [(5e-324, (1, 1000000)), (1e308, (1, 1))])
def test_any_temperature_gives_weights(temperature: float, weights: tuple[int, ...]) -> None:
    assert mixture((10, 1000), data_temperature=temperature).weights == weights
