"""The order of samples."""

from itertools import pairwise

from modellink_rm.dataset.order import SampleOrder


def test_unshuffled_samples_are_in_order_over_epochs() -> None:
    order = SampleOrder(num_examples=3, shuffle=False, seed=1)
    assert list(order.samples(1, 8)) == [1, 2, 0, 1, 2, 0, 1]


def test_shuffled_epochs_are_permutations_that_depend_on_nothing_but_the_seed() -> None:
    order = SampleOrder(num_examples=50, shuffle=True, seed=1)
    epochs = [list(order.samples(50 * epoch, 50 * (epoch + 1))) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert all(one != other for one, other in pairwise(epochs))
    again = SampleOrder(num_examples=50, shuffle=True, seed=1)
    assert list(again.samples(30, 120)) == (epochs[0] + epochs[1] + epochs[2])[30:120]
    assert list(SampleOrder(num_examples=50, shuffle=True, seed=2).samples(0, 50)) != epochs[0]
