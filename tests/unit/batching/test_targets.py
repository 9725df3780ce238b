"""What the data says of responses, beside their scores."""

import math

import torch

from modellink_rm.batching.batch import pack_examples
from modellink_rm.batching.targets import targets_of
from modellink_rm.dataset.example import Example
from tests.tiny_data import random_example


def ranked(index: int, ranks: tuple[int, ...], margins: tuple[float, ...] | None) -> Example:
    responses = random_example(index, 3, *[4] * len(ranks)).responses
    return Example(index, responses, ranks=ranks, margins=margins)


EXAMPLES = [
    ranked(0, (1, 2), (0.5,)),
    ranked(1, (1, 2, 2, 3), None),
    Example(2, random_example(2, 3, 4).responses),
]


def test_targets_are_in_the_order_of_the_scores() -> None:
    targets = targets_of(EXAMPLES)
    assert targets.num_responses == (2, 4, 1)
    assert targets.ranks.tolist() == [1, 2, 1, 2, 2, 3, 0]
    assert targets.ranks.dtype == torch.int64
    assert targets.margins[:2].tolist() == [0.0, 0.5]
    assert all(map(math.isnan, targets.margins[2:].tolist()))
    assert targets.margins.dtype == torch.float32
    assert targets.examples.tolist() == [0, 0, 1, 1, 1, 1, 2]


def test_every_two_responses_of_an_example_are_compared_once() -> None:
    targets = targets_of(EXAMPLES)
    compared = list(zip(targets.better.tolist(), targets.worse.tolist(), strict=True))
    assert compared == [(0, 1), (2, 3), (2, 4), (2, 5), (3, 5), (4, 5)]
    assert targets.tied.tolist() == [[3], [4]]


def test_the_tokens_of_a_response_are_those_after_its_prompt() -> None:
    targets = targets_of([random_example(0, 3, 4, 6), random_example(1, 0, 5)])
    assert targets.num_tokens.tolist() == [4, 6, 5]
    assert targets.num_predicted.tolist() == [4, 6, 4]  # nothing stands before the first of the last


def test_an_example_without_a_value_has_the_mean_0_and_one_with_a_single_value_that_value() -> None:
    targets = targets_of(EXAMPLES)
    means = targets.mean_by_example(torch.tensor([3.0, 2.0, 6.0]), torch.tensor([0, 1, 1]))
    assert means.tolist() == [3.0, 4.0, 0.0]


def test_no_example_has_no_target() -> None:
    targets = targets_of([])
    assert (targets.num_responses, len(targets.ranks), len(targets.margins)) == ((), 0, 0)


def test_targets_stay_whole_on_every_context_parallel_rank() -> None:
    batch = pack_examples(EXAMPLES, divisible_by=4)
    for rank in (0, 1):
        held = batch.share(rank=rank, size=2)
        assert len(held.input_ids) == len(batch.input_ids) // 2
        assert held.targets is batch.targets


def test_targets_move_with_their_batch() -> None:
    moved = pack_examples(EXAMPLES).to(torch.device("meta"))
    assert {moved.input_ids.device.type, moved.targets.ranks.device.type} == {"meta"}
    tensors = [value for value in vars(moved.targets).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 12
    assert moved.targets.num_responses == (2, 4, 1)
