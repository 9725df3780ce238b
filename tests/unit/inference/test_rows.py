"""Rows of the output of `score`."""

import dataclasses

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair, Ranking, Unranked
from modellink_rm.inference.result import NotScored, Scored
from modellink_rm.inference.rows import KeptFields, kept_fields, output_row

ANSWER = Message("assistant", "a")
PAIR = Pair(system=None, tools="", prompt=(Message("user", "q"),), chosen=ANSWER, rejected=ANSWER)
SEVERAL = Unranked(system=None, tools="", prompt=PAIR.prompt, responses=(ANSWER,) * 3)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, {"id": 7, "text": "t"}),
        ("none", {}),
        ("text", {"text": "t"}),
        ("text, x", {"text": "t", "x": None}),
    ],
)
def test_fields_of_the_record_come_first(keep: str | None, expected: dict[str, object]) -> None:
    row = output_row({"id": 7, "text": "t"}, Scored(PAIR, (2.0, 0.5), True), kept_fields(keep))
    scores = {"chosen_score": 2.0, "rejected_score": 0.5, "margin": 1.5, "truncated": True}
    assert list(row.items()) == [*expected.items(), *scores.items()]


def test_a_field_with_the_name_of_a_score_is_kept_under_another() -> None:
    fields = {"score": 3, "input_score": 4, "margin": 5, "id": 1}
    row = output_row(fields, Scored(SEVERAL, (1.0, 2.0, 3.0), False), KeptFields())
    kept = {"input_score": 4, "id": 1, "input_input_score": 3, "input_margin": 5}
    assert row == {**kept, "scores": [1.0, 2.0, 3.0]}


def test_a_record_without_scores_keeps_its_fields_beside_the_reason() -> None:
    assert output_row({"id": 7}, NotScored("r", "x:1: r"), KeptFields()) == {"id": 7, "error": "x:1: r"}


def test_attributes_are_in_the_order_of_the_scores_beside_them() -> None:
    ranking = Ranking(
        system=None, tools="", prompt=PAIR.prompt, responses=(ANSWER,) * 2, ranks=(1, 2), places=(1, 0)
    )
    attributes = ({"helpful": 2.0}, {"helpful": 0.5})
    of_two = output_row({}, Scored(ranking, (2.0, 0.5), False, attributes), KeptFields())
    assert (of_two["chosen_score"], of_two["rejected_score"]) == (2.0, 0.5)
    assert of_two["attribute_scores"] == [{"helpful": 2.0}, {"helpful": 0.5}]
    of_three = dataclasses.replace(ranking, responses=(ANSWER,) * 3, ranks=(1, 2, 3), places=(1, 2, 0))
    scored = Scored(of_three, (3.0, 2.0, 1.0), False, ({"a": 3.0}, {"a": 2.0}, {"a": 1.0}))
    row = output_row({}, scored, KeptFields())
    assert (row["scores"], [one["a"] for one in row["attribute_scores"]]) == ([1.0, 3.0, 2.0],) * 2


@pytest.mark.parametrize("keep", ["a,,b", "a,a", ","])
def test_names_that_cannot_be_are_refused(keep: str) -> None:
    with pytest.raises(UserError, match="--keep takes names of different fields"):
        kept_fields(keep)
