"""Every template against its pieces written out by hand, tokenised by the libraries themselves."""

import dataclasses
import shutil

import pytest

from modellink_rm.base.log import warn_once
from modellink_rm.conversation import Message, Pair
from modellink_rm.records import RecordError
from modellink_rm.templates.calls import CALL_FORMATS, CallFormat
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.encode import (
    num_closing_tokens,
    tokenize_responses,
)
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import load_directory
from tests.unit.templates.forms import (
    ASSISTANT,
    BOS,
    EOS,
    EOT,
    GMASK,
    IM_END,
    MULTI_TURN,
    OBSERVATIONS,
    ONE_TURN,
    SOP,
    T,
    chatml_turn,
)
from tests.unit.templates.rendering import encode_prompt, encode_response


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def test_the_forms_written_out_cover_every_template():
    assert set(ONE_TURN) == {*MULTI_TURN, "gemma2"} == set(TEMPLATES) - {"mistral_v3"}


def test_gemma2_refuses_a_system_message_as_its_publisher_does(load):
    with pytest.raises(RecordError) as error:
        encode_prompt("s", "", (user("q"),), TEMPLATES["gemma2"], load("gemma2")[0])
    assert error.value.reason == "--prompt-type gemma2 has no form for a system message"


CALL = '{"name": "f", "arguments": {"x": "é", "n": 2}}'
TWO = f"[{CALL}, {CALL}]"
QWEN_CALL = f"<tool_call>\n{CALL}\n</tool_call>"
TOOL_CALL = ["f\n", "```python\ntool_call(x='é', n=2)\n```"]
GLM4_CALL = 'f\n{"x": "é", "n": 2}'
# name: content of a function_call, and the pieces of the answer
CALLS = [
    ("qwen", CALL, [QWEN_CALL, IM_END]),
    ("qwen", f"so:\n{TWO}", [f"so:\n{QWEN_CALL}\n{QWEN_CALL}", IM_END]),
    ("qwen3", CALL, [QWEN_CALL, IM_END, "\n"]),
    ("qwen3", "f(x)", ["f(x)", IM_END, "\n"]),
    ("llama3", CALL, ['{"name": "f", "parameters": {"x": "é", "n": 2}}', EOT]),
    ("chatglm3", CALL, [*TOOL_CALL, EOS]),
    ("chatglm3", "f(x)", ["\n", "f(x)", EOS]),
    ("chatglm3", f"so:\n{TWO}", ["\n", "so:", ASSISTANT, *TOOL_CALL, ASSISTANT, *TOOL_CALL, EOS]),
    ("glm4", CALL, [GLM4_CALL, EOS]),
    ("glm4", f"<|user|>\n{TWO}", ["\n<|user|>", ASSISTANT, GLM4_CALL, ASSISTANT, GLM4_CALL, EOS]),
    ("llama2", CALL, [CALL, EOS]),
]


@pytest.mark.parametrize(("name", "content", "pieces"), CALLS)
def test_a_call_is_written_as_published(name, content, pieces, load):
    tokenizer, ids = load(name)
    assert encode_response(Message("function_call", content), TEMPLATES[name], tokenizer) == ids(pieces)


def test_chatglm3_writes_calls_and_results_as_its_build_single_message_does(load):
    """tokenization_chatglm.py: the role, "metadata\\n" tokenised alone, and the text tokenised alone."""
    tokenizer, ids = load("chatglm3")
    turns = (user("q"), Message("function_call", CALL), Message("observation", "22"))
    got = encode_prompt("s", "", turns, TEMPLATES["chatglm3"], tokenizer)

    def single_message(role, metadata, message):
        return [T(f"<|{role}|>"), f"{metadata}\n", message]

    pieces = [GMASK, SOP, *single_message("system", "", "s"), *single_message("user", "", "q")]
    pieces += single_message("assistant", "f", "```python\ntool_call(x='é', n=2)\n```")
    pieces += [*single_message("observation", "", "22"), ASSISTANT]
    assert got == ids(pieces)


def test_chatglm3s_own_chat_template_has_the_ids_of_the_tables_prompt(chatglm_directory, tmp_path):
    """zai-org/chatglm3-6b, chat_template: the space after the line break is sentencepiece's own."""
    shutil.copytree(chatglm_directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '[gMASK]sop' if loop.first }}<|{{ m['role'] }}|>\n {{ m['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = load_directory(tmp_path)
    pair = Pair("s", "", (user("sophie's q"), assistant("a b"), user("q2")), assistant("b c"), assistant("a"))
    own = tokenize_responses(pair, find_template(None, tokenizer), tokenizer)
    table = tokenize_responses(pair, TEMPLATES["chatglm3"], tokenizer)
    assert own.prompt_ids == table.prompt_ids
    assert [*own.response_ids[0], tokenizer.eos_id] == table.response_ids[0].tolist()


@pytest.mark.parametrize("rest", ['"input": {"x": 1}', '"arguments": {"x": 1}, "parameters": {"y": 2}'])
def test_a_call_whose_arguments_have_another_name_or_two_is_written_unchanged(rest, load):
    call = f'{{"name": "f", {rest}}}'
    tokenizer, ids = load("qwen")
    got = encode_response(Message("function_call", call), TEMPLATES["qwen"], tokenizer)
    assert got == ids([call, IM_END])


@pytest.mark.parametrize("content", [TWO, f"so:\n{CALL}"])
def test_calls_that_have_no_form_are_refused(content, load):
    with pytest.raises(RecordError, match="has no place for several, or for text beside one"):
        encode_response(Message("function_call", content), TEMPLATES["llama3"], load("llama3")[0])


def test_a_call_that_has_a_key_twice_is_refused(load):
    call = Message("function_call", '{"name": "f", "arguments": {"x": 1, "x": 2}}')
    with pytest.raises(RecordError, match="an object with a key twice: 'x'"):
        encode_response(call, TEMPLATES["qwen"], load("qwen")[0])


@pytest.mark.parametrize("name", ["qwen", "glm4", "llama3"])
def test_half_a_surrogate_pair_that_escapes_spell_in_a_call_is_refused(name, load):
    call = Message("function_call", r'{"name": "f", "arguments": {"x": "\ud800"}}')
    with pytest.raises(RecordError, match="half of a surrogate pair"):
        encode_response(call, TEMPLATES[name], load(name)[0])


def test_qwen3_keeps_thoughts_after_the_last_question(load):
    tokenizer, ids = load("qwen3")
    turns = (user("q1"), Message("function_call", f"<think>x</think>\n{CALL}"), Message("observation", "o"))
    got = encode_prompt(None, "", turns, TEMPLATES["qwen3"], tokenizer)
    answer = [f"<think>x</think>\n{QWEN_CALL}", IM_END, "\n"]
    observation = chatml_turn("user", "<tool_response>\no\n</tool_response>")
    assert got == ids([*chatml_turn("user", "q1"), *answer, *observation])


def test_a_form_of_calls_is_one_entry(load, monkeypatch):
    form = CallFormat(
        texts=lambda text, calls: tuple(f"[{call.name}]" for call in calls),
        replaces_opening=True,
        keeps_thoughts=True,
    )
    monkeypatch.setitem(CALL_FORMATS, "mine", form)
    tokenizer, ids = load("chatglm3")
    template = dataclasses.replace(TEMPLATES["chatglm3"], call_format="mine", strip_thoughts=True)
    assert encode_response(Message("function_call", TWO), template, tokenizer) == ids(["[f]", "[f]", EOS])
    thought = Message("assistant", "<think>x</think>a")
    turns = (user("q1"), thought, Message("observation", "o"))
    others = dataclasses.replace(template, call_format="chatglm3")
    kept, removed = (encode_prompt(None, "", turns, one, tokenizer) for one in (template, others))
    assert len(kept) > len(removed)


@pytest.mark.parametrize("name", ["mistral", "mixtral", "gemma", "llama2"])
def test_a_historical_form_of_system_texts_is_said_once(name, load, caplog):
    warn_once.cache_clear()
    tokenizer = load(name)[0]
    with caplog.at_level("WARNING", logger="modellink_rm"):
        for _ in range(2):
            assert find_template(name, tokenizer) is TEMPLATES[name]
    assert len(caplog.records) == (name != "llama2")


@pytest.mark.parametrize("name", sorted(ONE_TURN))
def test_one_turn_without_a_system_message(name, load):
    tokenizer, ids = load(name)
    pair = Pair(system=None, tools="", prompt=(user("q"),), chosen=assistant("a"), rejected=assistant("b c"))
    tokens = tokenize_responses(pair, TEMPLATES[name], tokenizer)
    prompt, response = ONE_TURN[name]
    other = [piece.replace("a", "b c") if isinstance(piece, str) else piece for piece in response]
    assert tokens.prompt_ids == ids(prompt)
    assert tokens.response_ids[0] == ids(response)
    assert tokens.response_ids[1] == ids(other)


@pytest.mark.parametrize("name", sorted(MULTI_TURN))
def test_several_turns_with_a_system_message(name, load):
    tokenizer, ids = load(name)
    turns = (user("q1"), assistant("a1"), user("q2"))
    assert encode_prompt("s", "", turns, TEMPLATES[name], tokenizer) == ids(MULTI_TURN[name])


@pytest.mark.parametrize("name", sorted(OBSERVATIONS))
def test_an_observation_opens_its_turn(name, load):
    tokenizer, ids = load(name)
    turns = (Message("observation", "o"),)
    assert encode_prompt(None, "", turns, TEMPLATES[name], tokenizer) == ids(OBSERVATIONS[name])


@pytest.mark.parametrize("name", sorted(ONE_TURN))
def test_a_function_call_is_written_like_an_answer(name, load):
    tokenizer, _ = load(name)
    call = Message("function_call", "f(x)")
    template = TEMPLATES[name]
    assert encode_response(call, template, tokenizer) == encode_response(
        assistant("f(x)"), template, tokenizer
    )


@pytest.mark.parametrize("name", ["qwen", "alpaca", "chatglm3_system", "chatml_de"])
def test_an_empty_system_message_is_the_default(name, load):
    tokenizer, _ = load(name)
    empty, none = (encode_prompt(s, "", (user("q"),), TEMPLATES[name], tokenizer) for s in ("", None))
    assert empty == none


@pytest.mark.parametrize(
    "content",
    ["{content}", "{idx} {system}", "{{content}} %s {0}", "<|im_end|>", "[INST] </s> [/INST]", "<|user|>"],
)
@pytest.mark.parametrize("name", ["chatglm2", "chatglm3", "chatml", "llama2", "llama3"])
def test_braces_and_markers_in_messages_are_text(name, content, load):
    tokenizer, ids = load(name)
    prompt, response = ONE_TURN[name]
    prompt = [piece.replace("q", content) if isinstance(piece, str) else piece for piece in prompt]
    assert encode_prompt(None, "", (user(content),), TEMPLATES[name], tokenizer) == ids(prompt)
    response = [piece.replace("a", content) if isinstance(piece, str) else piece for piece in response]
    assert encode_response(assistant(content), TEMPLATES[name], tokenizer) == ids(response)


def test_llama2_message_that_spells_a_field_keeps_it_with_a_system(load):
    tokenizer, ids = load("llama2")
    got = encode_prompt("{content}", "", (user("{system}"),), TEMPLATES["llama2"], tokenizer)
    assert got == ids([BOS, "[INST] <<SYS>>\n{content}\n<</SYS>>\n\n{system} [/INST]"])


def test_qwen3_strips_thoughts_from_earlier_answers_only(load):
    tokenizer, ids = load("qwen3")
    turns = (user("q1"), assistant("<think>\nhm\n\nwell</think>\n\na1"), user("q2"))
    assert encode_prompt("s", "", turns, TEMPLATES["qwen3"], tokenizer) == ids(MULTI_TURN["qwen3"])
    final = encode_response(assistant("<think>x</think>\n\na"), TEMPLATES["qwen3"], tokenizer)
    assert final == ids(["<think>x</think>\n\na", IM_END, "\n"])
    asked = (user("<think>x</think>q"),)
    got = encode_prompt(None, "", asked, TEMPLATES["qwen3"], tokenizer)
    assert got == ids(chatml_turn("user", "<think>x</think>q"))


def test_thinking_keeps_a_thought_and_adds_an_empty_one(load):
    tokenizer, ids = load("qwen3")
    thought = assistant("<think>x</think>\n\na")
    kept = encode_response(thought, TEMPLATES["qwen3_thinking"], tokenizer)
    assert kept == ids(["<think>x</think>\n\na", IM_END, "\n"])
    taken_out = encode_response(thought, TEMPLATES["qwen3_no_thinking"], tokenizer)
    assert taken_out == ids(["a", IM_END, "\n"])


def test_closing_tokens_are_what_follows_the_text_of_an_answer(load):
    expected = {"llama2": 1, "chatml": 1, "chatglm3": 1, "gemma": 1, "empty": 0}
    for name, count in expected.items():
        assert num_closing_tokens(TEMPLATES[name], load(name)[0]) == count
    tokenizer, ids = load("qwen3")
    assert num_closing_tokens(TEMPLATES["qwen3"], tokenizer) == len(ids([IM_END, "\n"]))


def test_literals_after_the_text_in_its_own_slot_are_closing_tokens(load):
    tokenizer, _ = load("llama2")
    slots = ("Answer: {content}\n\nthe end", *TEMPLATES["llama2"].assistant[1:])
    template = dataclasses.replace(TEMPLATES["llama2"], assistant=slots)
    literals = tokenizer.encode("\n\nthe end")
    assert len(literals) > 1
    assert num_closing_tokens(template, tokenizer) == len(literals) + 1
    answer = encode_response(assistant("a1"), template, tokenizer).tolist()
    assert answer == [*tokenizer.encode("Answer: a1\n\nthe end"), tokenizer.eos_id]
