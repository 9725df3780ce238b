"""The overlap of evaluated records with training data."""

from collections.abc import Mapping
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Conversation, Message, Unranked
from modellink_rm.evaluation.overlap import ComparedItems, items_of, overlapping, training_overlap
from modellink_rm.records import BadRecord, Record, RecordError

THIRTEEN = "one two three four five six seven eight nine ten eleven twelve thirteen"


def reader(fields: Mapping[str, Any]) -> Conversation:
    if "prompt" not in fields:
        raise RecordError("no prompt")
    return Unranked(
        system=None,
        tools="",
        prompt=(Message("user", fields["prompt"]),),
        responses=(Message("assistant", fields.get("response", "")),),
    )


def found(evaluated: list[dict[str, str]], training: list[dict[str, str]]) -> list[int]:
    """Numbers of the evaluated records that overlap."""
    items = list(items_of(reader, [Record(f"{i}", one) for i, one in enumerate(evaluated)]))
    (overlaps,) = overlapping(reader, [Record("t", one) for one in training], [items])
    return [item.number for item in overlaps.overlapping]


@pytest.mark.parametrize(
    ("prompt", "training", "overlaps"),
    [
        (f"say {THIRTEEN}", f"{THIRTEEN} again", True),
        (f"say {THIRTEEN}", THIRTEEN.upper().replace(" ", ", "), True),
        (f"say {THIRTEEN}", THIRTEEN.replace("seven", "7"), False),
        (f"say {THIRTEEN}", THIRTEEN.removesuffix(" thirteen"), False),
        ("Name a prime!", "name a prime", True),  # whole and shorter
        ("Name a prime!", "name a prime please", False),
        ("!", "?", False),
        ("请给我讲一个关于月亮和太阳的故事", "好，请给我讲一个关于月亮和太阳的", True),
        ("请给我讲一个关于月亮和太阳的故事", "请给我讲一个故事", False),
    ],
)
def test_thirteen_words_in_a_row_or_a_whole_shorter_prompt_overlap(
    prompt: str, training: str, overlaps: bool
) -> None:
    assert found([{"prompt": "other"}, {"prompt": prompt}], [{"prompt": training}]) == [1] * overlaps


def test_a_long_response_overlaps_and_a_short_one_does_not() -> None:
    evaluated = [{"prompt": "a", "response": "Yes."}, {"prompt": "b", "response": THIRTEEN}]
    assert found(evaluated, [{"prompt": "c", "response": "Yes."}]) == []
    assert found(evaluated, [{"prompt": "c", "response": f"Well, {THIRTEEN}."}]) == [1]
    assert found(evaluated, [{"prompt": f"What follows {THIRTEEN}?"}]) == [1]


def test_records_that_cannot_be_read_keep_the_numbers_of_the_others() -> None:
    records: list[Record | BadRecord] = [
        BadRecord("x:1", "bad", "bad"),
        Record("x:2", {}),
        Record("x:3", {"prompt": "a"}),
    ]
    assert [(item.number, item.place) for item in items_of(reader, records)] == [(2, "x:3")]


def test_training_data_of_another_form_is_an_error() -> None:
    with pytest.raises(UserError, match="--training-data: no record can be read"):
        overlapping(reader, [Record("t", {})], [])


def test_accuracies_are_of_the_items_with_scores() -> None:
    records = [Record(f"x:{number}", {"prompt": f"p{number}"}) for number in range(4)]
    items = tuple(items_of(reader, records))
    made = training_overlap("a", ComparedItems(items=items, overlapping=items[:2]), {0: 1.0, 2: 0.0, 3: 0.5})
    assert (made.num_items, made.places) == (4, ("x:0", "x:1"))
    assert (made.accuracy, made.others_accuracy) == (1.0, 0.25)
    assert training_overlap("a", ComparedItems(items=items, overlapping=()), {0: 1.0}).accuracy is None
