"""Sequences that begin alike are computed together, where that saves tokens."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.serving.sharing import group_sequences


def ids(*parts: range) -> np.ndarray:
    return np.concatenate([np.array(part, dtype=np.int32) for part in parts])


SYSTEM = range(1, 21)
QUESTION, OTHER_QUESTION = range(100, 300), range(300, 500)


def test_a_prompt_with_64_answers_is_computed_once() -> None:
    sequences = [ids(QUESTION, range(1000 + 10 * n, 1010 + 10 * n)) for n in range(64)]
    (group,) = group_sequences(sequences, max_tokens=10_000, shares=True)
    assert (group.members, group.num_shared) == (tuple(range(64)), 200)
    assert group.num_tokens == 200 + 64 * 10
    example = group.example(sequences, [None] * 64, 3)
    assert (example.index, {one.num_prompt_tokens for one in example.responses}) == (3, {200})


def test_the_longest_common_beginnings_are_shared_first() -> None:
    """All begin with the system text; two answers of one question save more together."""
    sequences = [
        ids(SYSTEM, QUESTION, range(1000, 1005)),
        ids(SYSTEM, OTHER_QUESTION, range(1000, 1005)),
        ids(SYSTEM, QUESTION, range(2000, 2005)),
    ]
    groups = group_sequences(sequences, max_tokens=10_000, shares=True)
    assert [(one.members, one.num_shared) for one in groups] == [((0, 2), 220), ((1,), 0)]


def test_groups_keep_the_order_of_their_first_members() -> None:
    sequences = [ids(range(start, start + 30)) for start in (900, 100, 500, 100)]
    groups = group_sequences(sequences, max_tokens=1000, shares=True)
    assert [one.members for one in groups] == [(0,), (1, 3), (2,)]
    assert groups[1].num_tokens == 30  # equal sequences are computed once


def test_a_group_is_not_larger_than_a_forward_pass() -> None:
    sequences = [ids(QUESTION, range(1000 + 100 * n, 1100 + 100 * n)) for n in range(4)]
    groups = group_sequences(sequences, max_tokens=420, shares=True)
    assert sorted(len(one.members) for one in groups) == [2, 2]


def test_nothing_is_shared_where_the_model_cannot() -> None:
    sequences = [ids(QUESTION, range(1000, 1005)), ids(QUESTION, range(2000, 2005))]
    groups = group_sequences(sequences, max_tokens=1000, shares=False)
    assert [(one.members, one.num_shared) for one in groups] == [((0,), 0), ((1,), 0)]


token_lists = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@given(st.lists(token_lists, min_size=1, max_size=12), st.integers(20, 200))
def test_every_sequence_is_in_one_group_whose_beginning_it_has(
    lists: list[list[int]], max_tokens: int
) -> None:
    sequences = [np.array(one, dtype=np.int32) for one in lists]
    groups = group_sequences(sequences, max_tokens=max_tokens, shares=True)
    assert sorted(member for group in groups for member in group.members) == list(range(len(lists)))
    for group in groups:
        beginnings = {tuple(lists[member][: group.num_shared]) for member in group.members}
        assert len(beginnings) == 1
        assert len(group.members) == 1 or group.num_tokens <= max_tokens
        rests = [len(lists[member]) - group.num_shared for member in group.members]
        assert group.num_tokens == group.num_shared + sum(rests)
    assert sum(group.num_tokens for group in groups) <= sum(map(len, lists))
