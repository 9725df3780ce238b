"""The summary of `score`, against numbers worked out by hand."""

import pytest

from modellink_rm.conversation import Message, Pair, Unranked
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.inference.totals import NoFiniteScoreError, Totals

ANSWERS = (Message("assistant", "a"), Message("assistant", "b"))
PROMPT = (Message("user", "q"),)


def pair(chosen: float, rejected: float, *, is_truncated: bool = False) -> Scored:
    said = Pair(system=None, tools="", prompt=PROMPT, chosen=ANSWERS[0], rejected=ANSWERS[1])
    return Scored(said, (chosen, rejected), is_truncated)


def unranked(*scores: float) -> Scored:
    said = Unranked(system=None, tools="", prompt=PROMPT, responses=ANSWERS[: len(scores)])
    return Scored(said, scores, is_truncated=False)


def test_the_summary_has_the_numbers_by_hand() -> None:
    totals = Totals()
    results = [pair(2.0, 1.0), pair(1.0, 1.0), pair(0.0, 3.0, is_truncated=True), pair(4.0, 2.5)]
    results += [unranked(1.0, 2.0), unranked(4.5)]
    for result in [*results, NotScored("no prompt", "line 7: no prompt"), NotScored(NOT_FINITE, "line 8")]:
        totals.add(result)
    assert totals.lines() == [
        "pairs: 4 | accuracy: 0.6250 | mean margin: -0.1250 | ties: 1",
        "responses: 3 | mean score: 2.5000",
        "inputs: 8 | truncated: 1 | not scored: 2 (1 not finite)",
    ]
    totals.check_some_finite()


def test_what_is_not_among_the_inputs_has_no_line() -> None:
    assert Totals().lines() == ["inputs: 0 | truncated: 0 | not scored: 0"]


@pytest.mark.parametrize("reasons", [(), ("no prompt",), (NOT_FINITE, "no prompt"), (NOT_FINITE, NOT_FINITE)])
def test_a_model_is_at_fault_where_no_score_is_finite(reasons: tuple[str, ...]) -> None:
    totals = Totals()
    for reason in reasons:
        totals.add(NotScored(reason, "line 1"))
    if set(reasons) == {NOT_FINITE}:
        with pytest.raises(NoFiniteScoreError, match="no score of the 2 inputs is finite"):
            totals.check_some_finite()
    else:
        totals.check_some_finite()
