"""Examples of one prompt are computed as one example."""

import numpy as np
import pytest

from modellink_rm.dataset.example import Example, Response
from modellink_rm.inference.shared_prompts import merge_prompts


def example(index: int, prompt: list[int], *answers: list[int]) -> Example:
    return Example(
        index,
        tuple(Response(np.array(prompt + answer, dtype=np.int32), len(prompt)) for answer in answers),
    )


def test_examples_of_equal_prompts_are_one_and_others_stay() -> None:
    one, other, again = example(0, [1, 2], [3], [4]), example(1, [1], [2, 3]), example(2, [1, 2], [5])
    merged = merge_prompts([one, other, again], max_tokens=100)
    assert [item.places for item in merged] == [((0, 0), (0, 1), (2, 0)), ((1, 0),)]
    assert [len(item.example.responses) for item in merged] == [3, 1]
    assert [item.example.index for item in merged] == [0, 1]
    assert merged[0].example.responses[2] is again.responses[0]


def test_an_example_of_two_prompts_and_one_without_a_prompt_stay_whole() -> None:
    two = Example(0, (example(0, [1], [2]).responses[0], example(0, [7], [2]).responses[0]))
    empty = example(1, [], [4, 5], [6])
    merged = merge_prompts([two, empty, empty], max_tokens=100)
    assert [item.places for item in merged] == [((0, 0), (0, 1)), ((1, 0), (1, 1)), ((2, 0), (2, 1))]


@pytest.mark.parametrize(("max_tokens", "sizes"), [(1, [7, 7, 2]), (22, [10, 6]), (1000, [16])])
def test_responses_of_a_prompt_are_divided_where_they_are_longer_than_a_pass(
    max_tokens: int, sizes: list[int]
) -> None:
    """Two tokens each after a prompt of two: a pass is never shorter than eight prompts, 16 tokens."""
    whole = example(0, [1, 2], *([number, 3] for number in range(16)))
    merged = merge_prompts([whole], max_tokens=max_tokens)
    assert [len(item.places) for item in merged] == sizes
    assert [place for item in merged for place in item.places] == [(0, number) for number in range(16)]
