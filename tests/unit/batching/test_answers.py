"""The tokens of answers that a language model predicts, and where it does."""

import numpy as np
import pytest
import torch

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.dataset.example import Example, Response
from tests.tiny_data import random_example


def predictions(batch: Batch) -> list[list[tuple[int, int, int]]]:
    """Of each response: the id before each predicted token, its position, and the predicted id."""
    assert batch.answers is not None
    found: list[list[tuple[int, int, int]]] = [[] for _ in range(batch.answers.num_answers)]
    entries = zip(
        batch.scored_positions, batch.answers.token_ids.tolist(), batch.answers.answers.tolist(), strict=True
    )
    for position, token, answer in entries:
        before = (int(batch.input_ids[position]), int(batch.position_ids[position]), token)
        found[answer].append(before)
    return [found[slot] for slot in batch.answers.slots.tolist()]


def expected(examples: list[Example]) -> list[list[tuple[int, int, int]]]:
    """The same, read from each response by itself."""
    found = []
    for response in (response for example in examples for response in example.responses):
        ids = response.input_ids.tolist()
        first = max(response.num_prompt_tokens, 1)
        found.append([(ids[at - 1], at - 1, ids[at]) for at in range(first, len(ids))])
    return found


@pytest.mark.parametrize("share_prefixes", [True, False])
def test_every_token_of_an_answer_is_predicted_by_the_one_before(share_prefixes: bool) -> None:
    # An answer of one token, none at all, and a prompt without a token.
    lengths = ((3, 4, 2), (5, 1, 3, 2), (4, 0, 2), (0, 3, 1))
    examples = [random_example(index, *one) for index, one in enumerate(lengths)]
    batch = pack_examples(examples, share_prefixes=share_prefixes, predicts_answers=True)
    assert predictions(batch) == expected(examples)
    assert batch.targets.num_predicted.tolist() == [len(one) for one in expected(examples)]


def test_equal_answers_are_predicted_once() -> None:
    one = random_example(0, 3, 4).responses[0]
    other = random_example(1, 3, 2).responses[0]
    other = Response(np.concatenate((one.input_ids[:3], other.input_ids[3:])), 3)
    batch = pack_examples([Example(0, (one, other, one), ranks=(1, 2, 3))], predicts_answers=True)
    assert batch.answers is not None
    assert batch.answers.slots.tolist() == [0, 1, 0]
    assert len(batch.scored_positions) == 4 + 2
    assert predictions(batch) == expected([Example(0, (one, other, one))])


def test_equal_sequences_with_other_prompts_are_other_answers() -> None:
    """As data of another tool may have them."""
    ids = np.array([5, 6, 7, 8], dtype=np.int32)
    example = Example(index=0, responses=(Response(ids, 1), Response(ids, 3)), ranks=(1, 2))
    batch = pack_examples([example], predicts_answers=True)
    assert predictions(batch) == expected([example])
    assert batch.answers is not None
    assert batch.answers.num_answers == 2


def test_batch_without_examples_predicts_nothing() -> None:
    batch = pack_examples([], divisible_by=4, predicts_answers=True)
    assert batch.answers is not None
    assert (batch.scored_positions, batch.answers.num_answers) == ((), 0)
    assert len(batch.answers.token_ids) == len(batch.answers.slots) == 0


def test_predicted_tokens_move_with_their_batch() -> None:
    moved = pack_examples([random_example(0, 3, 2, 1)], predicts_answers=True).to(torch.device("meta"))
    assert moved.answers is not None
    assert {moved.answers.token_ids.device.type, moved.answers.slots.device.type} == {"meta"}
