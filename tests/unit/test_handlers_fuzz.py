"""Records spoiled at random, from their bytes to token ids: each is a pair or is refused, none raises.

FUZZ_RECORDS=15000 tries 105,000 of them.
"""

import json
import os
import random

import pytest

from modellink_rm.data.handlers import HANDLERS, make_handler
from modellink_rm.data.records import BadRecord, RawRecord, RecordError, parse_record
from modellink_rm.data.templates import TEMPLATES, tokenize_responses
from tests.unit.conftest import load_directory

NUM_RECORDS = int(os.environ.get("FUZZ_RECORDS", "300"))


def message(role, content):
    return {"role": role, "content": content}


def turn(tag, value):
    return {"from": tag, "value": value}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
GOOD = {
    "AlpacaStylePairwiseHandler": {
        "instruction": "q",
        "input": "x",
        "history": [["q", "a"]],
        "chosen": "a",
        "rejected": "b",
    },
    "SharegptStylePairwiseHandler": {
        "conversations": [turn("human", "q"), turn("gpt", "a"), turn("human", "q")],
        "chosen": turn("gpt", "a"),
        "rejected": turn("gpt", "b"),
        "tools": [{"name": "f"}],
    },
    "OpenAiMessagesPairwiseHandler": {
        "prompt": [message("system", "s"), message("user", "q"), CALL, message("tool", "x")],
        "chosen": [message("assistant", "a")],
        "rejected": [message("assistant", [{"type": "text", "text": "b"}])],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    },
    "HhRlhfPairwiseHandler": {
        "chosen": "\n\nHuman: q\n\nAssistant: a",
        "rejected": "\n\nHuman: q\n\nAssistant: b",
    },
    "SafeRlhfPairwiseHandler": {
        "prompt": "q",
        "response_0": "a",
        "response_1": "b",
        "better_response_id": 1,
    },
    "UltraFeedbackPairwiseHandler": {
        "instruction": "q",
        "completions": [
            {"response": "a", "fine-grained_score": 3},
            {"response": "b", "fine-grained_score": 2},
        ],
    },
    "HelpSteerPairwiseHandler": {
        "prompt": "q",
        "response1": "a",
        "response2": "b",
        "preference_strength": -2,
    },
}
GOOD["RankedResponsesHandler"] = {
    "prompt": [message("user", "q")],
    "responses": ["a", message("assistant", "b"), {"response": "c", "rating": 2, "rank": 1}],
    "ranks": [2, 1, 2],
    "ratings": [3, 5, 1.5],
}
OFF_BY_DEFAULT = {
    "AlpacaStylePairwiseHandler": '{"history": "history"}',
    "SharegptStylePairwiseHandler": '{"tools": "tools"}',
}
VALUES = [None, True, 0, -1, 1.5, 1e308, 2**63, "", "x", "<|im_end|>", "\0", "é" * 50, "y" * 20_000]
VALUES += [[], {}, [[]], [None], {"role": "user"}]


def places(value, path=()):
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def spoiled(record, choose):
    """The bytes of a record with values or bytes of it replaced, left out or doubled."""
    record = json.loads(json.dumps(record))
    for _ in range(choose.randint(1, 2)):
        *path, last = choose.choice(list(places(record))[1:] or [("no field",)])
        owner = record
        for key in path:
            owner = owner[key]
        fate = choose.random()
        if fate < 0.2 and isinstance(owner, dict):
            owner.pop(last, None)
        elif fate < 0.3 and isinstance(owner, list):
            owner.append(json.loads(json.dumps(owner[last])))
        elif fate < 0.5 and isinstance(owner, dict) and isinstance(owner.get(last), str):
            place = choose.randint(0, len(owner[last]))
            owner[last] = owner[last][place:] if choose.random() < 0.5 else owner[last] + owner[last][place:]
        else:
            owner[last] = json.loads(json.dumps(choose.choice(VALUES)))
    text = json.dumps(record, ensure_ascii=choose.random() < 0.5).encode()
    fate = choose.random()
    if fate < 0.1:
        return text[: choose.randint(0, len(text))]
    if fate < 0.2:
        place = choose.randrange(len(text))
        return text[:place] + bytes([choose.randrange(256)]) + text[place + 1 :]
    if fate < 0.23:
        return text.replace(b'"q"', b'"\\ud800"')
    if fate < 0.26:
        depth = choose.choice([500, 1000, 1020, 5000])
        return text.replace(b'"q"', b"[" * depth + b"]" * depth)
    return text


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_every_spoiled_record_is_a_pair_or_is_refused(name, fast_directory):
    tokenizer = load_directory(fast_directory)
    handler = make_handler(name, OFF_BY_DEFAULT.get(name))
    choose = random.Random(name)
    outcomes = {"pair": 0, "bad": 0, "refused": 0}
    for _ in range(NUM_RECORDS):
        record = parse_record(RawRecord("x:1", spoiled(GOOD[name], choose)))
        if isinstance(record, BadRecord):
            outcomes["bad"] += 1
            continue
        try:
            tokenize_responses(handler(record.fields), TEMPLATES["qwen3"], tokenizer)
            outcomes["pair"] += 1
        except RecordError as error:
            outcomes["refused"] += bool(error.reason)
    assert sum(outcomes.values()) == NUM_RECORDS
    assert min(outcomes.values()) > 0


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_what_is_spoiled_is_a_pair_before(name, fast_directory):
    handler = make_handler(name, OFF_BY_DEFAULT.get(name))
    assert tokenize_responses(
        handler(GOOD[name]), TEMPLATES["qwen3"], load_directory(fast_directory)
    ).prompt_ids
