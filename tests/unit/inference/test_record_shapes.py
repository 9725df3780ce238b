"""Every shape of record: score and preprocess_data.py agree, or the rule says what to give."""

import dataclasses
import json

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversation import Message, Pair, Ranking, Stepwise, Unranked
from modellink_rm.inference.reader import HandlerNeededError, RecordReader, check_first
from modellink_rm.inference.record_tokenizer import RecordTokenizer
from modellink_rm.inference.result import NotScored
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.preprocess.rows import from_bytes
from modellink_rm.records import BadRecord, RawRecord, Record, RecordBlock, RecordError, parse_record
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import load_directory

ALPACA = ("AlpacaStylePairwiseHandler", None)
HISTORY = ("AlpacaStylePairwiseHandler", '{"history": "history", "system": "system"}')
SHAREGPT = ("SharegptStylePairwiseHandler", '{"tools": "tools", "system": "system"}')
OPENAI = ("OpenAiMessagesPairwiseHandler", None)
OPENAI_SYSTEM = ("OpenAiMessagesPairwiseHandler", '{"system": "system"}')
OPENAI_MARGIN = ("OpenAiMessagesPairwiseHandler", '{"margin": "margin"}')
RANKED = ("RankedResponsesHandler", None)


def message(role, content):
    return {"role": role, "content": content}


def turn(tag, value):
    return {"from": tag, "value": value}


USER, SYSTEM, ANSWER = message("user", "q"), message("system", "s"), message("assistant", "a")
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
PARTS = message("user", [{"type": "text", "text": "q"}, {"type": "text", "text": "r"}])
TOOLS = [{"type": "function", "function": {"name": "f"}}]
TEXTS = {"chosen": "a", "rejected": "b"}
MESSAGES = {"chosen": [ANSWER], "rejected": [message("assistant", "b")]}
SHARED = {"chosen": [USER, ANSWER], "rejected": [USER, message("assistant", "b")]}
SAID = {"chosen": turn("gpt", "a"), "rejected": turn("gpt", "b")}
HUMAN = [turn("human", "q")]

SHAPES = {
    "texts": (OPENAI, {"prompt": "q", **TEXTS}),
    "messages": (OPENAI, {"prompt": [USER], **MESSAGES}),
    "one message each": (OPENAI, {"prompt": USER, "chosen": ANSWER, "rejected": message("assistant", "b")}),
    "implicit prompt": (OPENAI, SHARED),
    "implicit prompt with a system message": (
        OPENAI,
        {side: [SYSTEM, *turns] for side, turns in SHARED.items()},
    ),
    "prompt is null": (OPENAI, {"prompt": None, **SHARED}),
    "prompt is repeated in the answers": (OPENAI, {"prompt": [USER], **SHARED}),
    "system in the first message": (OPENAI, {"prompt": [SYSTEM, USER], **TEXTS}),
    "system of a developer": (OPENAI, {"prompt": [message("developer", "s"), USER], **TEXTS}),
    "system in a field that is not read": (OPENAI, {"prompt": "q", "system": "s", **TEXTS}),
    "system in a field": (OPENAI_SYSTEM, {"prompt": "q", "system": "s", **TEXTS}),
    "system in both": (OPENAI_SYSTEM, {"prompt": [SYSTEM, USER], "system": "t", **TEXTS}),
    "system is null": (OPENAI_SYSTEM, {"prompt": "q", "system": None, **TEXTS}),
    "system is a number": (OPENAI_SYSTEM, {"prompt": "q", "system": 3, **TEXTS}),
    "tools": (OPENAI, {"prompt": "q", "tools": TOOLS, **TEXTS}),
    "tools as text": (OPENAI, {"prompt": "q", "tools": json.dumps(TOOLS), **TEXTS}),
    "tools are empty": (OPENAI, {"prompt": "q", "tools": [], **TEXTS}),
    "tools are a number": (OPENAI, {"prompt": "q", "tools": 3, **TEXTS}),
    "tools are no list of functions": (OPENAI, {"prompt": "q", "tools": "f", **TEXTS}),
    "tool calls in the prompt": (OPENAI, {"prompt": [USER, CALL, message("tool", "2")], **TEXTS}),
    "tool calls as the answer": (OPENAI, {"prompt": "q", "chosen": [CALL], "rejected": "b"}),
    "tool calls without a name": (
        OPENAI,
        {"prompt": "q", "chosen": [{**CALL, "tool_calls": [{}]}], "rejected": "b"},
    ),
    "parts of content": (OPENAI, {"prompt": [PARTS], **TEXTS}),
    "an image among the parts": (OPENAI, {"prompt": [message("user", [{"type": "image"}])], **TEXTS}),
    "several turns": (OPENAI, {"prompt": [USER, ANSWER, USER], **TEXTS}),
    "turns that do not alternate": (OPENAI, {"prompt": [USER, USER, USER], **TEXTS}),
    "a prompt that ends with an answer": (OPENAI, {"prompt": [USER, ANSWER], **TEXTS}),
    "a system message in the middle": (OPENAI, {"prompt": [USER, SYSTEM], **TEXTS}),
    "a role that nobody knows": (OPENAI, {"prompt": [message("judge", "q")], **TEXTS}),
    "an empty list of messages": (OPENAI, {"prompt": [], **TEXTS}),
    "empty texts": (OPENAI, {"prompt": "", "chosen": "", "rejected": ""}),
    "chosen is null": (OPENAI, {"prompt": "q", "chosen": None, "rejected": "b"}),
    "chosen is a number": (OPENAI, {"prompt": "q", "chosen": 1, "rejected": "b"}),
    "chosen is missing": (OPENAI, {"prompt": "q", "rejected": "b"}),
    "a margin": (OPENAI_MARGIN, {"prompt": "q", "margin": 2, **TEXTS}),
    "a margin beyond float32": (OPENAI_MARGIN, {"prompt": "q", "margin": 1e300, **TEXTS}),
    "a margin below 0": (OPENAI_MARGIN, {"prompt": "q", "margin": -1, **TEXTS}),
    "conversations beside a prompt": (OPENAI, {"prompt": "q", "conversations": HUMAN, **TEXTS}),
    "instruction beside a prompt": (OPENAI, {"prompt": "q", "instruction": "r", **TEXTS}),
    "a response beside a pair": (OPENAI, {"prompt": "q", "response": "c", **TEXTS}),
    "instruction": (ALPACA, {"instruction": "q", **TEXTS}),
    "instruction and a prompt": (ALPACA, {"instruction": "q", "prompt": "r", **TEXTS}),
    "instruction and input": (ALPACA, {"instruction": "q", "input": "x", **TEXTS}),
    "lists of one text": (ALPACA, {"instruction": "q", "chosen": ["a"], "rejected": ["b"]}),
    "output of two texts": (ALPACA, {"instruction": "q", "output": ["a", "b"]}),
    "history and system": (HISTORY, {"instruction": "q", "history": [["h", "i"]], "system": "s", **TEXTS}),
    "history that is not read": (ALPACA, {"instruction": "q", "history": [["h", "i"]], **TEXTS}),
    "an empty instruction": (ALPACA, {"instruction": "", **TEXTS}),
    "conversations": (SHAREGPT, {"conversations": HUMAN, **SAID}),
    "conversations and texts": (SHAREGPT, {"conversations": HUMAN, **TEXTS}),
    "conversations and a prompt": (SHAREGPT, {"conversations": HUMAN, "prompt": "r", **SAID}),
    "conversations with a system turn": (
        SHAREGPT,
        {"conversations": [turn("system", "s"), *HUMAN], "system": "t", **SAID},
    ),
    "conversations with a call and an observation": (
        SHAREGPT,
        {
            "conversations": [*HUMAN, turn("function_call", "f()"), turn("observation", "2")],
            "tools": TOOLS,
            **SAID,
        },
    ),
    "conversations of two humans": (SHAREGPT, {"conversations": HUMAN * 3, **SAID}),
    "empty conversations": (SHAREGPT, {"conversations": [], **SAID}),
    "ranks": (RANKED, {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [2, 1, 3]}),
    "ratings that tie": (RANKED, {"prompt": "q", "responses": ["a", "b"], "ratings": [1, 1]}),
    "responses without an order": (RANKED, {"prompt": "q", "responses": ["a", "b"]}),
    "stars of a dialogue": (("HhRlhfPairwiseHandler", None), TEXTS),
    "no object": (OPENAI, ["q", "a", "b"]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_preprocessing_and_scoring_agree(shape, fast_directory):
    (handler, map_keys), fields = SHAPES[shape]
    raw = RawRecord("x:1", json.dumps(fields).encode())
    config = PreprocessConfig(
        input=("x",), output_prefix="x", handler_name=handler, map_keys=map_keys, prompt_type="qwen3"
    )
    work = RecordEncoder(config, TokenizerConfig(tokenizer_name_or_path=str(fast_directory)))
    rows = from_bytes(work(RecordBlock([raw])))
    inputs = RecordTokenizer(
        reader=RecordReader(trained_handler=handler, trained_map_keys=map_keys),
        template=TEMPLATES["qwen3"],
        tokenizer=load_directory(fast_directory),
        seq_length=1 << 20,
        truncation="right",
    )
    scored = inputs(parse_record(raw))
    if isinstance(scored, NotScored):
        assert [refused.reason for refused in rows.refused] == [scored.reason]
        return
    assert rows.refused == []
    prompt, *answers = np.split(rows.ids, np.cumsum(rows.lengths)[:-1])
    stored = [[*prompt.tolist(), *answer.tolist()] for answer in answers]
    assert [response.input_ids.tolist() for response in scored.example.responses] == stored


def test_tokens_that_the_model_does_not_have_are_not_scored(fast_directory):
    tokenizer = load_directory(fast_directory)
    inputs = RecordTokenizer(
        reader=RecordReader(),
        template=TEMPLATES["qwen3"],
        tokenizer=tokenizer,
        seq_length=1 << 20,
        truncation="right",
    )
    raw = RawRecord("x:1", b'{"prompt": "q", "chosen": "a", "rejected": "b"}')
    scored = inputs(parse_record(raw))
    largest = max(int(one.input_ids.max()) for one in scored.example.responses)
    assert dataclasses.replace(inputs, num_ids=largest + 1)(parse_record(raw)).place == "x:1"
    refused = dataclasses.replace(inputs, num_ids=largest)(parse_record(raw))
    assert isinstance(refused, NotScored)
    assert refused.reason == "a token that the model does not have"


def test_many_shapes_are_tried():
    assert len(SHAPES) >= 34


def read(fields, **options):
    return RecordReader(**options)(fields)


QUESTION = (Message("user", "q"),)
A, B = Message("assistant", "a"), Message("assistant", "b")


def test_the_handler_that_is_given_wins():
    fields = {"prompt": "q", "response": "c", "instruction": "q", **TEXTS}
    given = {"handler_name": ALPACA[0], "trained_handler": OPENAI[0]}
    assert read(fields, **given) == Pair(None, "", QUESTION, A, B)


@pytest.mark.parametrize("trained", [None, *sorted({ALPACA[0], SHAREGPT[0], OPENAI[0]}), "own.py:Own"])
def test_a_response_is_read_by_the_handler_of_responses(trained):
    found = read({"prompt": "q", "response": "a", "system": "s"}, trained_handler=trained)
    assert found == Unranked("s", "", QUESTION, (A,))
    found = read({"prompt": "q", "responses": ["a", "b"]}, trained_handler=trained)
    assert found == Unranked(None, "", QUESTION, (A, B))


def test_ratings_of_other_data_sets_do_not_take_a_response_away():
    """UltraFeedback's completions have a field `response`, which is none of the record's own."""
    found = read({"prompt": "q", "response": "a"}, trained_handler="UltraFeedbackPairwiseHandler")
    assert found == Unranked(None, "", QUESTION, (A,))


def test_responses_that_were_trained_on_are_read_as_in_training():
    fields = {"prompt": "q", "responses": ["a", "b"], "ranks": [2, 1]}
    found = read(fields, trained_handler=RANKED[0])
    assert found == Ranking(None, "", QUESTION, (B, A), (1, 2), places=(1, 0))
    keys = '{"chosen": "response", "rejected": "responses"}'
    found = read(
        {"prompt": "q", "response": "a", "responses": "b"}, trained_handler=OPENAI[0], trained_map_keys=keys
    )
    assert found == Pair(None, "", QUESTION, A, B)


def test_the_keys_of_training_are_used():
    found = read(
        {"question": "q", **TEXTS}, trained_handler=ALPACA[0], trained_map_keys='{"prompt": "question"}'
    )
    assert found == Pair(None, "", QUESTION, A, B)


@pytest.mark.parametrize(
    ("trained", "fields", "system"),
    [
        # Under the keys of training, whatever stands beside them.
        ({"system": "rules"}, {"completions": ["a"], "rules": "s", "system": "t"}, "s"),
        ({"prompt": "rules"}, {"completions": ["a"], "rules": "q", "prompt": "other"}, None),
        ({"completions": "steps"}, {"steps": ["a"], "completions": ["b"]}, None),
        ({"source": "from"}, {"completions": ["a"], "system": "s"}, None),
        # Of a form that the training data did not have, as the server reads it.
        ({"completions": "steps"}, {"completions": ["a"], "system": "s"}, "s"),
        (None, {"completions": ["a"], "system": "s"}, "s"),
    ],
)
def test_steps_are_read_with_the_keys_of_training(trained, fields, system):
    handler = {} if trained is None else {"trained_handler": "StepwiseHandler"}
    keys = {} if trained is None else {"trained_map_keys": json.dumps(trained)}
    found = read({"prompt": "q", **fields}, scores_steps=True, **handler, **keys)
    assert found == Stepwise(system, "", (Message("user", "q"),), ("a",), None)


def test_completions_are_steps_for_a_model_that_was_trained_on_another_form():
    fields = {"prompt": "q", "completions": ["a"], "input": "x"}
    found = read(fields, scores_steps=True, trained_handler="MathShepherdHandler")
    assert found.steps == ("a",)


def test_without_a_contract_pairs_are_messages():
    assert read({"prompt": "q", **TEXTS}) == read(SHARED) == Pair(None, "", QUESTION, A, B)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"conversations": HUMAN, **SAID},
            "field 'conversations' is not read .* Sharegpt",
        ),
        ({"prompt": "q", "conversations": HUMAN, **SAID}, "give --handler-name SharegptStylePairwiseHandler"),
        ({"instruction": "q", **TEXTS}, "give --handler-name AlpacaStylePairwiseHandler"),
        ({"prompt": "q", "instruction": "r", **TEXTS}, "give --handler-name AlpacaStylePairwiseHandler"),
        ({"messages": [USER], **MESSAGES}, r"""--map-keys '\{"prompt": "messages"\}'"""),
        ({"prompt": "q", "system": "s", **TEXTS}, r"""--map-keys '\{"system": "system"\}'"""),
        ({"prompt": "q", "response": "a", "chosen": "b"}, "field 'response' is not read by OpenAi"),
        ({"prompt": "q", "response": "a", "instruction": "r"}, "'instruction' is not read by PromptResponse"),
        ({"prompt": "q"}, "neither a response nor chosen and rejected"),
    ],
)
def test_without_a_contract_nothing_is_ignored(fields, message):
    with pytest.raises(HandlerNeededError, match=message):
        read(fields)


def test_fields_that_say_nothing_do_no_harm():
    fields = {"prompt": "q", "system": "", "conversations": None, "history": [], "response": None, **TEXTS}
    assert read(fields) == Pair(None, "", QUESTION, A, B)


@pytest.mark.parametrize("name", ["own.py:Own", "NotInstalledHandler"])
def test_a_foreign_handler_must_be_given_again(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('the file of a checkpoint was run')\n")
    with pytest.raises(HandlerNeededError, match=f"read by {name} in training.* --handler-name {name}"):
        read({"prompt": "q", **TEXTS}, trained_handler=name)


def test_a_first_record_that_needs_a_handler_ends_the_command():
    reader = RecordReader()
    record = Record("x:2", {"instruction": "q", **TEXTS})
    with pytest.raises(UserError, match="x:2: field 'instruction' is not read by"):
        check_first(reader, [BadRecord("x:1", "invalid JSON", "invalid JSON"), record])
    check_first(reader, [Record("x:1", {"prompt": 3, **TEXTS})])  # its row says it
    check_first(reader, [])
    with pytest.raises(RecordError, match="must be a text"):
        reader({"prompt": 3, **TEXTS})
