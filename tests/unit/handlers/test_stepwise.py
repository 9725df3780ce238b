"""Handlers of responses in steps: TRL's form, Math-Shepherd, PRM800K, and what they refuse."""

import pytest

from modellink_rm.conversation import Message, Stepwise
from modellink_rm.records import RecordError
from tests.unit.handlers.conversations import made

TRL, SHEPHERD, PRM800K = "StepwiseHandler", "MathShepherdHandler", "Prm800kHandler"
KI = "\u043a\u0438"


def stepwise(*steps, labels=None, prompt="q", **fields):
    return Stepwise(None, "", (Message("user", prompt),), steps, labels, **fields)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([True, False], (1.0, 0.0)),
        ([1, 0.25], (1.0, 0.25)),
        ([None, 1], (None, 1.0)),
        ([-100, 0], (None, 0.0)),
        (None, None),
    ],
)
def test_stepwise_labels_are_probabilities_or_none(labels, expected):
    record = {"prompt": "q", "completions": ["a", "b"], "labels": labels}
    assert made(TRL, record) == stepwise("a", "b", labels=expected)


def test_stepwise_fields_have_other_names_and_prompts_may_be_messages():
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    record = {"question": prompt, "steps": ["a"], "right": [1], "set": "math"}
    keys = {"prompt": "question", "completions": "steps", "labels": "right", "source": "set"}
    expected = Stepwise("s", "", (Message("user", "q"),), ("a",), (1.0,), "math")
    assert made(TRL, record, **keys) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"completions": "a"}, "field 'completions' must be a list of texts, one for each step"),
        ({"completions": []}, "field 'completions' must be a list of texts, one for each step"),
        ({"completions": ["a", 3]}, "field 'completions' must be a list of texts, one for each step"),
        ({"completions": ["a"], "labels": [1, 0]}, "field 'labels' has not one label for each step"),
        ({"completions": ["a"], "labels": 1}, "field 'labels' must be a list of labels, one for each step"),
        ({"completions": ["a"], "labels": [2]}, "field 'labels' holds a label that is none"),
        ({"completions": ["a"], "labels": ["+"]}, "field 'labels' holds a label that is none"),
        ({"completions": ["a"], "labels": [float("nan")]}, "field 'labels' holds a label that is none"),
    ],
)
def test_stepwise_records_that_cannot_be_used_say_why(fields, reason):
    with pytest.raises(RecordError) as error:
        made(TRL, {"prompt": "q", **fields})
    assert error.value.reason == reason


TEXT = f"Janet has 3 eggs. How many? Step 1: She has 3. {KI}\nStep 2: The answer is: 4 {KI}"
STEPS = ("Step 1: She has 3.", "Step 2: The answer is: 4")


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"label": TEXT.replace(KI, "+", 1).replace(KI, "-")}, (1.0, 0.0)),
        ({"value": ["+", "-"]}, (1.0, 0.0)),
        ({"value": [0.75, 0]}, (0.75, 0.0)),
        ({}, None),
    ],
)
def test_math_shepherd_text_becomes_steps_and_labels(fields, labels):
    expected = stepwise(*STEPS, labels=labels, prompt="Janet has 3 eggs. How many?")
    assert made(SHEPHERD, {"input": TEXT, "task": "GSM8K", **fields}) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"input": "no steps"}, "field 'input' is not a question with steps"),
        ({"input": f"q Step 1: a {KI} and more"}, "field 'input' is not a question with steps"),
        ({"input": f"q First: a {KI}"}, "field 'input' is not a question with steps"),
        ({"input": f"Step 1: a {KI}"}, "empty prompt"),
        (
            {"input": f"Mix it. Step 1: stir. Step 2: boil. How long? Step 1: 3 h. {KI}"},
            "field 'input' has 'Step 1:' twice before the first step ends",
        ),
        (
            {"input": TEXT, "label": "another text"},
            "field 'label' is not the text of 'input' with + and - in it",
        ),
        (
            {"input": TEXT, "label": TEXT.replace(KI, "?")},
            "field 'label' is not the text of 'input' with + and - in it",
        ),
        ({"input": TEXT, "value": ["+"]}, "field 'value' has not one label for each step"),
        ({"input": TEXT, "value": ["+", "x"]}, "field 'value' holds a label that is none"),
    ],
)
def test_math_shepherd_records_that_cannot_be_used_say_why(fields, reason):
    with pytest.raises(RecordError) as error:
        made(SHEPHERD, fields)
    assert error.value.reason == reason


UNKNOWN_COMPLETION = "chosen_completion is not the number of a completion"


def step(*ratings, chosen=None, human=None):
    completions = [{"text": f"t{number}", "rating": rating} for number, rating in enumerate(ratings)]
    return {"completions": completions, "chosen_completion": chosen, "human_completion": human}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([step(1, chosen=0), step(-1, 0, chosen=1)], (("t0", 1.0), ("t1", 1.0))),
        ([step(1, chosen=0), step(0, -1)], (("t0", 1.0), ("t1", 0.0))),
        ([step(-1, human={"text": "own", "rating": None}), step(1, chosen=0)], (("own", 1.0), ("t0", 1.0))),
        ([step(None, chosen=0), step(1, chosen=0)], (("t0", None), ("t0", 1.0))),
        ([step(1, chosen=0), step()], (("t0", 1.0),)),
    ],
)
def test_prm800k_solution_is_what_was_chosen_up_to_its_error(steps, expected):
    record = {"question": {"problem": "q"}, "label": {"steps": steps, "finish_reason": "solution"}}
    texts, labels = zip(*expected, strict=True)
    assert made(PRM800K, record) == stepwise(*texts, labels=labels)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "q", "label": {}}, "field 'question' must be an object with the text 'problem'"),
        (
            {"question": {"problem": "q"}, "label": []},
            "field 'label' must be an object with the list 'steps'",
        ),
        ({"question": {"problem": "q"}, "label": {"steps": []}}, "no step is rated"),
        ({"question": {"problem": "q"}, "label": {"steps": [step(7, chosen=0)]}}, "a rating that is none"),
        ({"question": {"problem": "q"}, "label": {"steps": [step(1, -1, chosen=2)]}}, UNKNOWN_COMPLETION),
        ({"question": {"problem": "q"}, "label": {"steps": [step(1, -1, chosen=0.0)]}}, UNKNOWN_COMPLETION),
        ({"question": {"problem": "q"}, "label": {"steps": [step(1, -1, chosen=True)]}}, UNKNOWN_COMPLETION),
        ({"question": {"problem": "q"}, "label": {"steps": [step({}, chosen=0)]}}, "a rating that is none"),
        (
            {"question": {"problem": "q"}, "label": {"steps": [step(1), step(1, chosen=0)]}},
            "a step without a chosen completion before the last one",
        ),
        (
            {"question": {"problem": "q"}, "label": {"steps": [step(-1), step(1, chosen=0)]}},
            "a step without a chosen completion before the last one",
        ),
    ],
)
def test_prm800k_records_that_cannot_be_used_say_why(record, reason):
    with pytest.raises(RecordError) as error:
        made(PRM800K, record)
    assert error.value.reason == reason
