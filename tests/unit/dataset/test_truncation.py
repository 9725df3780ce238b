import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.dataset.example import Response
from modellink_rm.dataset.truncation import lengths_to_keep, truncate


@pytest.mark.parametrize(
    ("num_prompt", "num_response", "cutoff", "expected"),
    [
        # Recorded from LLaMA-Factory's infer_seqlen.
        (3000, 100, 1024, (924, 100)),
        (100, 3000, 1024, (100, 924)),
        (800, 800, 1024, (512, 512)),
        (2000, 512, 1024, (816, 208)),
        # 3000 * 2070 / (1530 + 2070) is 1725; in its order of operations it is just below.
        (1530, 2070, 3000, (1276, 1724)),
        # At the borders of its conditions, worked out by hand.
        (100, 40, 100, (60, 40)),
        (100, 50, 100, (67, 33)),
        (50, 60, 100, (46, 54)),
        (10, 20, 1024, (10, 20)),
        (0, 0, 8, (0, 0)),
        (0, 20, 8, (0, 8)),
        (20, 0, 8, (8, 0)),
    ],
)
def test_lengths_are_those_of_llama_factory(
    num_prompt: int, num_response: int, cutoff: int, expected: tuple[int, int]
) -> None:
    assert lengths_to_keep(num_prompt, num_response, cutoff) == expected


def response(prompt: Any, answer: Any) -> Response:
    ids = np.array([*prompt, *answer], np.int32)
    return Response(input_ids=ids, num_prompt_tokens=len(prompt))


def parts(kept: Any) -> Any:
    return [
        (r.input_ids[: r.num_prompt_tokens].tolist(), r.input_ids[r.num_prompt_tokens :].tolist())
        for r in kept
    ]


def test_short_responses_are_not_truncated() -> None:
    responses = (response(range(4), range(10, 14)), response(range(4), range(20, 22)))
    for mode in ("right", "keep-ends"):
        for seq_length in (8, 9, 100):
            kept, is_truncated = truncate(responses, seq_length, mode, num_closing_tokens=1)
            assert kept is responses
            assert not is_truncated


def test_a_prompt_that_needs_no_cut_stays_whole() -> None:
    responses = (response(range(2), range(10, 20)), response(range(2), range(20, 30)))
    kept, is_truncated = truncate(responses, 8, "right", num_closing_tokens=1)
    assert parts(kept) == [([0, 1], list(range(10, 16))), ([0, 1], list(range(20, 26)))]
    assert is_truncated


def test_right_cuts_prompt_and_longer_answer_at_their_right() -> None:
    responses = (response(range(8), range(10, 18)), response(range(8), range(20, 23)))
    kept, is_truncated = truncate(responses, 8, "right", num_closing_tokens=1)
    assert parts(kept) == [([0, 1, 2, 3], [10, 11, 12, 13]), ([0, 1, 2, 3], [20, 21, 22])]
    assert is_truncated


def test_keep_ends_takes_the_middle_of_a_prompt_and_spares_closing_tokens() -> None:
    responses = (response(range(9), range(10, 19)), response(range(9), range(20, 23)))
    kept, is_truncated = truncate(responses, 10, "keep-ends", num_closing_tokens=2)
    assert parts(kept) == [
        ([0, 1, 6, 7, 8], [10, 11, 12, 17, 18]),
        ([0, 1, 6, 7, 8], [20, 21, 22]),
    ]
    assert is_truncated


def test_keep_ends_without_closing_tokens_cuts_an_answer_at_its_right() -> None:
    kept, _ = truncate((response([0], range(10, 30)),), 5, "keep-ends", num_closing_tokens=0)
    assert parts(kept) == [([0], [10, 11, 12, 13])]


def test_only_the_prompt_is_cut_where_answers_are_short() -> None:
    kept, is_truncated = truncate((response(range(20), [90, 91]),), 10, "right", num_closing_tokens=1)
    assert parts(kept) == [(list(range(8)), [90, 91])]
    assert is_truncated


def test_prompts_that_differ_are_cut_by_the_lengths_of_the_longest() -> None:
    responses = (response(range(30), [90, 91]), response(range(5), [80]))
    kept, is_truncated = truncate(responses, 10, "right", num_closing_tokens=1)
    assert parts(kept) == [(list(range(8)), [90, 91]), (list(range(5)), [80])]
    assert is_truncated


@given(
    prompt=st.integers(1, 60),
    answers=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    cutoff=st.integers(2, 64),
    closing=st.integers(0, 3),
    mode=st.sampled_from(["right", "keep-ends"]),
)
def test_nothing_is_longer_than_the_cutoff_and_prompts_stay_shared(
    prompt: Any, answers: Any, cutoff: int, closing: int, mode: str
) -> None:
    responses = tuple(response(range(prompt), range(100, 100 + length)) for length in answers)
    kept, is_truncated = truncate(responses, cutoff, mode, num_closing_tokens=closing)
    assert all(len(r.input_ids) <= cutoff for r in kept)
    assert len({tuple(ids) for ids, _ in parts(kept)}) == 1
    changed = [
        old.input_ids.tolist() != new.input_ids.tolist() for old, new in zip(responses, kept, strict=True)
    ]
    assert is_truncated == any(changed)
    for length, (_, answer) in zip(answers, parts(kept), strict=True):
        if mode == "keep-ends" and 0 < closing <= len(answer):
            assert answer[-closing:] == list(range(100, 100 + length))[-closing:]


def test_keep_ends_keeps_the_last_closing_tokens_where_there_is_no_room_for_all() -> None:
    kept, _ = truncate((response(range(40), range(50, 70)),), 3, "keep-ends", num_closing_tokens=4)
    assert parts(kept) == [([0, 39], [69])]


@pytest.mark.parametrize("mode", ["right", "keep-ends"])
@pytest.mark.parametrize(
    ("seq_length", "prompt", "ends", "labels"),
    [(7, 3, (4, 6), (1.0, 0.5)), (6, 3, (4,), (1.0,)), (4, 3, (), ()), (2, 2, (), ())],
)
def test_response_in_steps_loses_its_end_alone(
    mode: str, seq_length: int, prompt: int, ends: tuple[int, ...], labels: tuple[float, ...]
) -> None:
    whole = dataclasses.replace(
        response([1, 2, 3], [4, 5, 6, 7, 8]), step_ends=(4, 6, 7), step_labels=(1.0, 0.5, 0.0)
    )
    (kept,), is_truncated = truncate((whole,), seq_length, mode, num_closing_tokens=1)
    assert is_truncated
    assert kept.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7][:seq_length]
    assert (kept.num_prompt_tokens, kept.step_ends, kept.step_labels) == (prompt, ends, labels)
