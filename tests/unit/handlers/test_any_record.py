"""No record, whatever it holds, ends a command."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modellink_rm.conversation import Pair, Ranking, Rated, Unranked
from modellink_rm.handlers import HANDLERS, make_handler
from modellink_rm.records import RecordError

FIELDS = [
    "prompt",
    "chosen",
    "rejected",
    "instruction",
    "input",
    "output",
    "conversations",
    "tools",
    "system",
]
FIELDS += ["response_0", "response_1", "better_response_id", "response1", "response2", "preference_strength"]
FIELDS += ["helpfulness", "correctness", "verbosity"]
FIELDS += ["response", "responses", "completions", "score_chosen", "score_rejected", "history", "messages"]
KEYS = ["role", "content", "from", "value", "tool_calls", "type", "text", "response", "fine-grained_score"]
WORDS = [
    "",
    "q",
    "user",
    "assistant",
    "system",
    "human",
    "gpt",
    "\n\nHuman: q\n\nAssistant: a",
    "tool",
    "text",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("name", sorted(HANDLERS))
@given(record=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=12))
def test_any_record_is_a_conversation_or_a_record_error(name, record):
    try:
        found = make_handler(name, None)(record)
    except RecordError:
        return
    assert isinstance(found, Pair | Ranking | Unranked | Rated)
    assert len(found.prompt) % 2 == 1
    texts = [turn.content for turn in (*found.prompt, *found.responses)]
    assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_deep_nesting_is_a_record_error(name):
    deep = []
    for _ in range(1000):
        deep = [deep]
    for field in FIELDS:
        record = dict.fromkeys(FIELDS, "\n\nHuman: q\n\nAssistant: a") | {field: deep}
        try:
            make_handler(name, '{"tools": "tools"}' if name.startswith(("Share", "Open")) else None)(record)
        except RecordError:
            continue
