"""Records spoiled at random, from their bytes to rows: each is a row or is refused, none raises.

FUZZ_RECORDS=100000 tries as many with each handler.
"""

import json
import os
import random

import pytest

from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.handlers import HANDLERS
from modellink_rm.preprocess.encode import RecordEncoder
from modellink_rm.preprocess.rows import from_bytes
from modellink_rm.records import RawRecord, RecordBlock

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
GOOD["NectarResponsesHandler"] = {
    "prompt": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant: ",
    "answers": [{"answer": "a", "model": "m", "rank": rank} for rank in (2.0, 1.0, 3.0)],
}
GOOD["StepwiseHandler"] = {"prompt": "q", "completions": ["a", "b"], "labels": [True, 0.5]}
GOOD["MathShepherdHandler"] = {
    "input": "q Step 1: a \u043a\u0438\nStep 2: b \u043a\u0438",
    "label": "q Step 1: a +\nStep 2: b -",
}
GOOD["Prm800kHandler"] = {
    "question": {"problem": "q"},
    "label": {"steps": [{"completions": [{"text": "a", "rating": 1}], "chosen_completion": 0}]},
}
GOOD["RatedResponseHandler"] = {
    "prompt": [message("user", "q")],
    "system": "s",
    "tools": [{"name": "f"}],
    "response": message("assistant", "a"),
    **{"helpfulness": 3, "correctness": "1.5", "coherence": None, "complexity": 0, "verbosity": -1},
}
UNRANKED = {"PromptResponseHandler"}
OFF_BY_DEFAULT = {
    "AlpacaStylePairwiseHandler": '{"history": "history"}',
    "SharegptStylePairwiseHandler": '{"tools": "tools"}',
}
NOT_PARSED = {"invalid JSON", "invalid UTF-8", "not an object", "nested too deeply", "NUL bytes"}
NOT_PARSED |= {"half of a surrogate pair", "an object with a key twice"}
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
    if fate < 0.28:
        key = choose.choice(sorted(record)).encode() if record else b""
        return text[:-1] + b', "' + key + b'": 1}'
    if fate < 0.3:
        return text.replace(b"q", choose.choice([b"\0", b"\\u0000", b"\\ud83d", b"\xed\xa0\x80"]))
    return text


def pair_tokenizer(name, directory):
    config = PreprocessConfig(
        input=("in.jsonl",),
        output_prefix="x",
        handler_name=name,
        map_keys=OFF_BY_DEFAULT.get(name),
        prompt_type="qwen3",
        max_answer_length=1000,
        drop=("long-answer",),
        rejects="rejects.jsonl",
    )
    return RecordEncoder(config, TokenizerConfig(tokenizer_name_or_path=str(directory)))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_spoiled_record_is_a_row_or_is_refused(name, fast_directory):
    work = pair_tokenizer(name, fast_directory)
    choose = random.Random(name)
    outcomes = {"row": 0, "bad": 0, "refused": 0}
    left = NUM_RECORDS
    while left:
        count = min(left, 50)
        left -= count
        block = RecordBlock(RawRecord("x:1", spoiled(GOOD[name], choose)) for _ in range(count))
        rows = from_bytes(work(block))
        assert len(rows.num_responses) + len(rows.refused) == rows.num_records == count
        assert all(refused.reason for refused in rows.refused)
        num_bad = sum(refused.reason in NOT_PARSED for refused in rows.refused)
        outcomes["row"] += len(rows.num_responses)
        outcomes["bad"] += num_bad
        outcomes["refused"] += len(rows.refused) - num_bad
    assert sum(outcomes.values()) == NUM_RECORDS
    assert min(outcomes.values()) > 0


def test_every_handler_of_data_to_train_on_is_tried():
    assert set(GOOD) == set(HANDLERS) - UNRANKED


@pytest.mark.parametrize("name", sorted(GOOD))
def test_what_is_spoiled_is_a_row_before(name, fast_directory):
    block = RecordBlock([RawRecord("x:1", json.dumps(GOOD[name]).encode())])
    rows = from_bytes(pair_tokenizer(name, fast_directory)(block))
    assert (len(rows.num_responses), rows.refused) == (1, [])
