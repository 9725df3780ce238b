"""Records as published data sets hold them, and the pairs they mean, written by hand."""

import pytest

from modellink_rm.conversation import Pair, Ranking
from modellink_rm.records import RecordError
from tests.unit.handlers.conversations import MESSAGES, A, B, Q, assistant, made, message, user

HH = "HhRlhfPairwiseHandler"
SAFE = "SafeRlhfPairwiseHandler"
ULTRA = "UltraFeedbackPairwiseHandler"
HELPSTEER = "HelpSteerPairwiseHandler"


def test_hh_rlhf_dialogues():
    start = "\n\nHuman: q1\n\nAssistant: a1 \n\nHuman: q2\nand more"
    record = {"chosen": start + "\n\nAssistant: good", "rejected": start + "\n\nAssistant:"}
    turns = (user("q1"), assistant("a1"), user("q2\nand more"))
    assert made(HH, record) == Pair(None, "", turns, assistant("good"), assistant(""))
    stripped = {key: text.lstrip() for key, text in record.items()}
    assert made(HH, stripped) == made(HH, record)


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("\n\nHuman: q", "\n\nHuman: q\n\nAssistant: b", "field 'chosen' is not a dialogue"),
        ("q", "\n\nHuman: q\n\nAssistant: b", "field 'chosen' is not a dialogue"),
        ("x\n\nHuman: q\n\nAssistant: b", "", "field 'chosen' is not a dialogue"),
        (
            "\n\nHuman: q\n\nAssistant: a",
            "\n\nHuman: p\n\nAssistant: b",
            "chosen and rejected have different prompts",
        ),
        ("\n\nAssistant: a", "\n\nAssistant: b", "empty prompt"),
        (
            "\n\nHuman: q\n\nHuman: q\n\nAssistant: a",
            "\n\nHuman: q\n\nHuman: q\n\nAssistant: b",
            "turns do not alternate",
        ),
    ],
)
def test_hh_rlhf_says_what_is_wrong(chosen, rejected, reason):
    with pytest.raises(RecordError) as error:
        made(HH, {"chosen": chosen, "rejected": rejected})
    assert error.value.reason.startswith(reason)


def test_safe_rlhf_by_the_better_or_the_safer_response():
    record = {
        "prompt": "q",
        "response_0": "zero",
        "response_1": "one",
        "better_response_id": 1,
        "safer_response_id": "0",
        "prompt_source": "x",
    }
    better = made(SAFE, record, source="prompt_source")
    assert better == Pair(
        None, "", (user("q"),), assistant("one"), assistant("zero"), margin=None, source="x"
    )
    safer = made(SAFE, record, preferred="safer_response_id")
    assert (safer.chosen, safer.rejected) == (assistant("zero"), assistant("one"))


@pytest.mark.parametrize(
    ("preferred", "reason"),
    [
        (-1, "neither response is preferred"),
        (2, "field 'better_response_id' must be 0 or 1"),
        (True, "field 'better_response_id' must be a number"),
        ("x", "field 'better_response_id' must be a number"),
        (None, "field 'better_response_id' is null"),
    ],
)
def test_safe_rlhf_says_what_is_wrong(preferred, reason):
    with pytest.raises(RecordError) as error:
        made(SAFE, {"prompt": "q", "response_0": "", "response_1": "", "better_response_id": preferred})
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("strength", "chosen", "margin"), [(-3, "one", 3), (-1, "one", 1), (2, "two", 2), ("1", "two", 1)]
)
def test_helpsteer_by_the_sign_of_the_strength(strength, chosen, margin):
    record = {"prompt": "q", "response1": "one", "response2": "two", "preference_strength": strength}
    pair = made(HELPSTEER, record)
    assert (pair.chosen.content, pair.margin, pair.prompt) == (chosen, margin, (user("q"),))


def test_helpsteer_ties_are_refused():
    record = {"prompt": "q", "response1": "one", "response2": "two", "preference_strength": 0}
    with pytest.raises(RecordError) as error:
        made(HELPSTEER, record)
    assert error.value.reason == "neither response is preferred"


def test_helpsteer3_with_its_own_names():
    keys = {"prompt": "context", "strength": "overall_preference", "source": "domain"}
    record = {
        "context": [Q, A, message("user", "q2")],
        "response1": "one",
        "response2": "two",
        "overall_preference": -2,
        "domain": "code",
    }
    turns = (user("q"), assistant("a"), user("q2"))
    expected = Pair(None, "", turns, assistant("one"), assistant("two"), margin=2.0, source="code")
    assert made(HELPSTEER, record, **keys) == expected


EARLIER = (user("q1\nand more"), assistant("a1"), user("q2"))
DIALOGUES = [  # as the cards of HelpSteer2 and of Nectar show them
    "q1\nand more\n<extra_id_1>Assistant\na1\n<extra_id_1>User\nq2",
    "<extra_id_1>User\nq1\nand more\n<extra_id_1>Assistant\na1\n<extra_id_1>User\nq2\n",
    "\n\nHuman: q1\nand more\n\nAssistant: a1\n\nHuman: q2\n\nAssistant: ",
    "\n\nHuman: q1\nand more\n\nAssistant: a1\n\nHuman: q2",
]


@pytest.mark.parametrize("prompt", DIALOGUES)
def test_a_prompt_of_several_turns_in_one_text_is_read_as_turns(prompt):
    record = {"response1": "a", "response2": "b", "preference_strength": -1}
    assert made(HELPSTEER, {**record, "prompt": prompt}).prompt == EARLIER
    assert made(MESSAGES, {"prompt": prompt, "chosen": "a", "rejected": "b"}).prompt == EARLIER
    assert (
        made("RankedResponsesHandler", {"prompt": prompt, "responses": ["a", "b"], "ranks": [1, 2]}).prompt
        == EARLIER
    )


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("q\n<extra_id_1>Assistant\na", "the conversation does not end with a turn to answer"),
        ("q\n<extra_id_1>User\nq", "turns do not alternate"),
        ("\n\nHuman: q\n\nHuman: q\n\nAssistant: ", "turns do not alternate"),
        ("\n\nHuman: q\n\nAssistant: It is", "the conversation does not end with a turn to answer"),
    ],
)
def test_a_prompt_of_several_turns_that_cannot_be_answered_is_refused(prompt, reason):
    with pytest.raises(RecordError) as error:
        made(MESSAGES, {"prompt": prompt, "chosen": "a", "rejected": "b"})
    assert error.value.reason == reason


@pytest.mark.parametrize("text", ["what is <extra_id_1>User in T5?", "Human: who\n\nAssistant: me?", "q"])
def test_a_prompt_that_only_speaks_of_marks_is_one_turn(text):
    assert made(MESSAGES, {"prompt": text, "chosen": "a", "rejected": "b"}).prompt == (user(text),)


def test_nectar():
    answers = [
        {"answer": "worst", "model": "m", "rank": 7.0},
        {"answer": "best", "model": "m", "rank": 1.0},
        {"answer": "middle", "model": "m", "rank": 3.0},
    ]
    record = {"prompt": DIALOGUES[2], "answers": answers, "turns": 2, "source": ["x"], "good_natured": True}
    expected = Ranking(
        *(None, "", EARLIER),
        (assistant("best"), assistant("middle"), assistant("worst")),
        (1, 2, 3),
        places=(1, 2, 0),
    )
    assert made("NectarResponsesHandler", record) == expected


def test_ultrafeedback_binarized():
    record = {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B], "score_chosen": 8.5, "score_rejected": 6}
    pair = made(ULTRA, {**record, "source": "flan"}, source="source")
    assert pair == Pair(None, "", (user("q"),), assistant("a"), assistant("b"), margin=2.5, source="flan")
    with pytest.raises(RecordError, match=r"chosen has the lower score: 8\.5, rejected has 9"):
        made(ULTRA, {**record, "score_rejected": 9})


SCORED = {
    "AlpacaStylePairwiseHandler": {"instruction": "q", "chosen": "a", "rejected": "b"},
    "SharegptStylePairwiseHandler": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": "a",
        "rejected": "b",
    },
    MESSAGES: {"prompt": [Q], "chosen": [A], "rejected": [B]},
    HH: {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    ULTRA: {"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]},
}


@pytest.mark.parametrize("name", sorted(SCORED))
def test_scores_that_do_not_prefer_chosen_refuse_the_record(name):
    """Whatever names the margin: a difference of 0, or below it, is no preference."""
    record = SCORED[name]
    assert made(name, {**record, "score_chosen": 8.5, "score_rejected": 6}).margin == 2.5
    assert made(name, {**record, "score_chosen": 8.5}).margin is None
    for map_keys in ({}, {"margin": "by"}):
        scored = {**record, "by": 1, "score_chosen": "7", "score_rejected": 7}
        with pytest.raises(RecordError) as error:
            made(name, scored, **map_keys)
        assert error.value.reason == "neither response is preferred"
        with pytest.raises(RecordError) as error:
            made(name, {**scored, "score_rejected": 9}, **map_keys)
        assert error.value.reason == "chosen has the lower score"
    assert made(name, scored, score_chosen="").margin is None


def completion(text, score):
    return {"response": text, "fine-grained_score": score, "overall_score": 10 - score}


def test_ultrafeedback_raw_is_the_best_against_the_worst():
    rated = [completion("b", 3), completion("a", 4.5), completion("c", 1), completion("d", 4.5)]
    pair = made(ULTRA, {"instruction": "q", "completions": rated})
    assert pair == Pair(None, "", (user("q"),), assistant("a"), assistant("c"), margin=3.5)
    by_other = made(ULTRA, {"instruction": "q", "completions": rated}, score="overall_score")
    assert by_other.chosen == assistant("c")


def test_ultrafeedback_raw_has_the_margin_and_the_probability_of_its_fields():
    record = {
        "instruction": "q",
        "completions": [completion("a", 3), completion("b", 1)],
        "by": 0.5,
        "p": 0.75,
    }
    pair = made(ULTRA, record, margin="by", probability="p")
    assert (pair.margin, pair.probability) == (0.5, 0.75)
    with pytest.raises(RecordError, match="chosen has the lower probability"):
        made(ULTRA, {**record, "p": 0.25}, margin="by", probability="p")


@pytest.mark.parametrize(
    ("completions", "reason"),
    [
        ([completion("a", 2), completion("b", 2)], "neither response is preferred"),
        ([completion("a", 2)], "fewer than two completions"),
        ([completion("a", 2), {"response": "b"}], "field 'fine-grained_score' is missing"),
        ([completion("a", 2), completion(None, 1)], "field 'response' is null"),
        ("x", "field 'completions' must be a list of completions"),
    ],
)
def test_ultrafeedback_says_what_is_wrong(completions, reason):
    with pytest.raises(RecordError) as error:
        made(ULTRA, {"instruction": "q", "completions": completions})
    assert error.value.reason == reason


@pytest.mark.parametrize("name", ["AlpacaStylePairwiseHandler", MESSAGES, HH])
def test_every_handler_reads_margin_probability_and_source(name):
    record = {
        **{"instruction": "q", "chosen": "\n\nHuman: q\n\nAssistant: a", "score": "1.5", "from": "x"},
        **{"share": 0.75},
        **{"prompt": "q", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    }
    pair = made(name, record, margin="score", source="from", probability="share")
    assert (pair.margin, pair.source, pair.probability) == (1.5, "x", 0.75)
