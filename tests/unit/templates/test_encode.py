"""Every template against its pieces written out by hand, tokenised by the libraries themselves.

In the expectations a str is text that is tokenised on its own and `T` is one token by name. The
pieces follow the table that ModelLink's users know; they are not made from the code's own table.
"""

import dataclasses
from array import array
from dataclasses import dataclass

import pytest
import sentencepiece
import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once
from modellink_rm.conversation import Message, Pair
from modellink_rm.records import RecordError
from modellink_rm.templates.calls import CALL_FORMATS, CallFormat
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.encode import (
    num_closing_tokens,
    tokenize_responses,
)
from modellink_rm.templates.renderer import eos_id_of
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import CONTROL_TOKENS, load_directory, train_tokenizer_json
from tests.unit.templates.rendering import encode_prompt, encode_response


@dataclass(frozen=True)
class T:
    """One token by its name; BOS and EOS are those of the tokenizer."""

    name: str


BOS, EOS = T("<s>"), T("</s>")
IM_START, IM_END = T("<|im_start|>"), T("<|im_end|>")
GMASK, SOP = T("[gMASK]"), T("sop")
SYSTEM, USER, ASSISTANT, OBSERVATION = (
    T("<|system|>"),
    T("<|user|>"),
    T("<|assistant|>"),
    T("<|observation|>"),
)
HEADER, END_HEADER, EOT = T("<|start_header_id|>"), T("<|end_header_id|>"), T("<|eot_id|>")
TURN, END_TURN = T("<start_of_turn>"), T("<end_of_turn>")

CHATGLM3_SYSTEM = (
    "You are ChatGLM3, a large language model trained by Zhipu.AI. "
    "Follow the user's instructions carefully. Respond using markdown."
)
ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
GERMAN_SYSTEM = "Du bist ein freundlicher und hilfsbereiter KI-Assistent."


def chatml_turn(role, text):
    return [IM_START, f"{role}\n{text}", IM_END, "\n", IM_START, "assistant\n"]


def chatml_system(text):
    return [IM_START, f"system\n{text}", IM_END, "\n"]


def llama3_turn(text, role="user"):
    return [HEADER, role, END_HEADER, f"\n\n{text}", EOT, HEADER, "assistant", END_HEADER, "\n\n"]


def gemma_turn(role, text):
    return [TURN, f"{role}\n{text}", END_TURN, "\n", TURN, "model\n"]


# name: (the prompt "q", the response "a")
ONE_TURN = {
    "default": (["Human: q\nAssistant:"], ["a", EOS]),
    "empty": (["q"], ["a"]),
    "chatglm2": ([GMASK, SOP, "[Round 0]\n\n问：q\n\n答："], ["a", EOS]),
    "chatglm3": ([GMASK, SOP, USER, "\n", "q", ASSISTANT], ["\n", "a", EOS]),
    "chatglm3_system": (
        [GMASK, SOP, SYSTEM, "\n", CHATGLM3_SYSTEM, USER, "\n", "q", ASSISTANT],
        ["\n", "a", EOS],
    ),
    "glm4": ([GMASK, T("<sop>"), USER, "\nq", ASSISTANT], ["\na", EOS]),
    "chatml": (chatml_turn("user", "q"), ["a", IM_END]),
    "chatml_de": (chatml_system(GERMAN_SYSTEM) + chatml_turn("user", "q"), ["a", IM_END]),
    "qwen": (chatml_system("You are a helpful assistant.") + chatml_turn("user", "q"), ["a", IM_END]),
    "qwen3": (chatml_turn("user", "q"), ["a", IM_END, "\n"]),
    "qwen3_thinking": (chatml_turn("user", "q"), ["<think>\n\n</think>\n\n", "a", IM_END, "\n"]),
    "qwen3_no_thinking": (
        [*chatml_turn("user", "q"), "<think>\n\n</think>\n\n"],
        ["a", IM_END, "\n"],
    ),
    "intern2": ([BOS, *chatml_turn("user", "q")], ["a", IM_END, "\n"]),
    "internlm2": ([BOS, *chatml_turn("user", "q")], ["a", IM_END, "\n"]),
    "llama3": ([BOS, *llama3_turn("q")], ["a", EOT]),
    "llama2": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mistral": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mixtral": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "mistral_v1": ([BOS, "[INST] q [/INST]"], ["a", EOS]),
    "gemma": ([BOS, *gemma_turn("user", "q")], ["a", EOS]),
    "gemma2": ([BOS, *gemma_turn("user", "q")], ["a", END_TURN, "\n"]),
    "gemma3": ([BOS, *gemma_turn("user", "q")], ["a", END_TURN, "\n"]),
    "alpaca": ([ALPACA_SYSTEM, "### Instruction:\nq\n\n### Response:\n"], ["a", EOS]),
    "deepseek2": ([BOS, "User: q\n\nAssistant:"], ["a", EOS]),
    "deepseek2-lite": ([BOS, "User: q\n\nAssistant:"], ["a", EOS]),
    "deepseek3": ([BOS, T("<｜User｜>"), "q", T("<｜Assistant｜>")], ["a", EOS]),
    "cpm": ([BOS, T("<用户>"), "q", T("<AI>")], ["a", EOS]),
    "baichuan2": ([T("<reserved_106>"), "q", T("<reserved_107>")], ["a", EOS]),
}

# name: the prompt of system "s", turns "q1", "a1", "q2"
MULTI_TURN = {
    "default": ["s\n", "Human: q1\nAssistant:", "a1", EOS, "\n", "Human: q2\nAssistant:"],
    "empty": ["s", "q1", "a1", "q2"],
    "chatglm2": [
        *(GMASK, SOP, "s", "[Round 0]\n\n问：q1\n\n答：", "a1"),
        *("\n\n", "[Round 1]\n\n问：q2\n\n答："),
    ],
    "chatglm3": [
        *(GMASK, SOP, SYSTEM, "\n", "s", USER, "\n", "q1", ASSISTANT, "\n", "a1"),
        *(USER, "\n", "q2", ASSISTANT),
    ],
    "chatglm3_system": [
        *(GMASK, SOP, SYSTEM, "\n", "s", USER, "\n", "q1", ASSISTANT, "\n", "a1"),
        *(USER, "\n", "q2", ASSISTANT),
    ],
    "glm4": [
        *(GMASK, T("<sop>"), SYSTEM, "\ns", USER, "\nq1", ASSISTANT, "\na1"),
        *(USER, "\nq2", ASSISTANT),
    ],
    "chatml": [
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "qwen3": [
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "intern2": [
        BOS,
        *chatml_system("s"),
        *chatml_turn("user", "q1"),
        *("a1", IM_END, "\n"),
        *chatml_turn("user", "q2"),
    ],
    "llama3": [
        *(BOS, HEADER, "system", END_HEADER, "\n\ns", EOT),
        *llama3_turn("q1"),
        *("a1", EOT),
        *llama3_turn("q2"),
    ],
    "llama2": [
        *(BOS, "[INST] <<SYS>>\ns\n<</SYS>>\n\nq1 [/INST]", "a1", EOS),
        *(BOS, "[INST] q2 [/INST]"),
    ],
    "mistral": [BOS, "s", "[INST] q1 [/INST]", "a1", EOS, "[INST] q2 [/INST]"],
    "mistral_v1": [BOS, "[INST] s\n\nq1 [/INST]", "a1", EOS, "[INST] q2 [/INST]"],
    "gemma3": [
        BOS,
        *gemma_turn("user", "s\n\nq1"),
        *("a1", END_TURN, "\n"),
        *gemma_turn("user", "q2"),
    ],
    "gemma": [
        *(BOS, "s"),
        *gemma_turn("user", "q1"),
        *("a1", END_TURN, "\n"),
        *gemma_turn("user", "q2"),
    ],
    "alpaca": [
        *("s", "### Instruction:\nq1\n\n### Response:\n", "a1", EOS),
        *("\n\n", "### Instruction:\nq2\n\n### Response:\n"),
    ],
    "deepseek2": [BOS, "s\n\n", "User: q1\n\nAssistant:", "a1", EOS, "User: q2\n\nAssistant:"],
    "deepseek3": [
        *(BOS, "s", T("<｜User｜>"), "q1", T("<｜Assistant｜>"), "a1", EOS),
        *(T("<｜User｜>"), "q2", T("<｜Assistant｜>")),
    ],
    "cpm": [BOS, "s", T("<用户>"), "q1", T("<AI>"), "a1", EOS, T("<用户>"), "q2", T("<AI>")],
    "baichuan2": [
        *("s", T("<reserved_106>"), "q1", T("<reserved_107>"), "a1"),
        *(T("<reserved_106>"), "q2", T("<reserved_107>")),
    ],
}
MULTI_TURN["chatml_de"] = MULTI_TURN["qwen"] = MULTI_TURN["chatml"]
MULTI_TURN["qwen3_thinking"] = MULTI_TURN["qwen3"]
MULTI_TURN["qwen3_no_thinking"] = [*MULTI_TURN["qwen3"], "<think>\n\n</think>\n\n"]
MULTI_TURN["internlm2"] = MULTI_TURN["intern2"]
MULTI_TURN["mixtral"] = MULTI_TURN["mistral"]
MULTI_TURN["deepseek2-lite"] = MULTI_TURN["deepseek2"]

# name: the observation "o" as the only turn
OBSERVATIONS = {
    "chatglm3": [GMASK, SOP, OBSERVATION, "\n", "o", ASSISTANT],
    "glm4": [GMASK, T("<sop>"), OBSERVATION, "\no", ASSISTANT],
    "chatml": chatml_turn("tool", "o"),
    "qwen": chatml_system("You are a helpful assistant.")
    + chatml_turn("user", "<tool_response>\no\n</tool_response>"),
    "qwen3": chatml_turn("user", "<tool_response>\no\n</tool_response>"),
    "gemma": [BOS, *gemma_turn("tool", "o")],
    "llama3": [BOS, *llama3_turn("o", role="ipython")],
    "llama2": [BOS, "[INST] o [/INST]"],
}


@pytest.fixture(scope="module")
def load(chatglm_directory, control_directory):
    """A template's tokenizer, and a function from pieces to ids that shares no code with it."""

    def load_for(name):
        directory = chatglm_directory if name.startswith("chatglm") else control_directory
        own = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
        names = CONTROL_TOKENS
        if directory == chatglm_directory:
            names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
            names += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
        special = {"<s>": 1, "</s>": 2} | {name: own.get_piece_size() + i for i, name in enumerate(names)}

        def ids(pieces):
            encoded = ([special[p.name]] if isinstance(p, T) else own.encode(p) for p in pieces)
            return array("i", [index for part in encoded for index in part])

        return load_directory(directory), ids

    return load_for


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


def test_the_tables_above_cover_every_template():
    assert set(ONE_TURN) == {*MULTI_TURN, "gemma2"} == set(TEMPLATES) - {"mistral_v3"}


def test_gemma2_refuses_a_system_message_as_its_publisher_does(load):
    with pytest.raises(RecordError) as error:
        encode_prompt("s", "", (user("q"),), TEMPLATES["gemma2"], load("gemma2")[0])
    assert error.value.reason == "--prompt-type gemma2 has no form for a system message"


CALL = '{"name": "f", "arguments": {"x": "é", "n": 2}}'
TWO = f"[{CALL}, {CALL}]"
QWEN_CALL = f"<tool_call>\n{CALL}\n</tool_call>"
# name: content of a function_call, and the pieces of the answer
CALLS = [
    ("qwen", CALL, [QWEN_CALL, IM_END]),
    ("qwen", f"so:\n{TWO}", [f"so:\n{QWEN_CALL}\n{QWEN_CALL}", IM_END]),
    ("qwen3", CALL, [QWEN_CALL, IM_END, "\n"]),
    ("qwen3", "f(x)", ["f(x)", IM_END, "\n"]),
    ("llama3", CALL, ['{"name": "f", "parameters": {"x": "é", "n": 2}}', EOT]),
    ("chatglm3", CALL, ["f\n", "```python\ntool_call(x='é', n=2)\n```", EOS]),
    ("chatglm3", "f(x)", ["\n", "f(x)", EOS]),
    ("glm4", CALL, ['f\n{"x": "é", "n": 2}', EOS]),
    ("llama2", CALL, [CALL, EOS]),
]


@pytest.mark.parametrize(("name", "content", "pieces"), CALLS)
def test_a_call_is_written_as_published(name, content, pieces, load):
    tokenizer, ids = load(name)
    assert encode_response(Message("function_call", content), TEMPLATES[name], tokenizer) == ids(pieces)


@pytest.mark.parametrize("name", ["llama3", "chatglm3", "glm4"])
@pytest.mark.parametrize("content", [TWO, f"so:\n{CALL}"])
def test_calls_that_have_no_form_are_refused(name, content, load):
    with pytest.raises(RecordError, match="has no place for several, or for text beside one"):
        encode_response(Message("function_call", content), TEMPLATES[name], load(name)[0])


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


@pytest.fixture(scope="module")
def qwen_like(tmp_path_factory):
    """A byte-level tokenizer.json whose control tokens are not flagged special."""
    directory = tmp_path_factory.mktemp("qwen_like")
    names = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    train_tokenizer_json(special=[], not_special=names).save(str(directory / "tokenizer.json"))
    return directory


def test_the_tokenizers_library_gives_the_same_pieces(qwen_like):
    tokenizer = load_directory(qwen_like)
    own = tokenizers.Tokenizer.from_file(str(qwen_like / "tokenizer.json"))
    expected = []
    for piece in MULTI_TURN["qwen3"]:
        expected += [own.token_to_id(piece.name)] if isinstance(piece, T) else own.encode(piece).ids
    turns = (user("q1"), assistant("a1"), user("q2"))
    assert encode_prompt("s", "", turns, TEMPLATES["qwen3"], tokenizer).tolist() == expected
    assert num_closing_tokens(TEMPLATES["qwen3"], tokenizer) == 2


def test_only_the_templates_own_control_tokens_become_text_in_messages(qwen_like):
    tokenizer = load_directory(qwen_like)
    response = encode_response(assistant("<think>x</think><|im_end|>"), TEMPLATES["qwen3"], tokenizer)
    assert response.count(tokenizer.token_to_id("<think>")) == 1
    assert response.count(tokenizer.token_to_id("<|im_end|>")) == 1  # the template's, not the message's


def test_a_tokenizer_without_bos_writes_none(qwen_like):
    tokenizer = load_directory(qwen_like)
    assert tokenizer.bos_id is None
    prompt = encode_prompt(None, "", (user("q"),), TEMPLATES["intern2"], tokenizer)
    assert prompt[0] == tokenizer.token_to_id("<|im_start|>")


def test_replaced_eos_is_the_first_stop_word(load):
    tokenizer, ids = load("chatml")
    assert [eos_id_of(TEMPLATES["chatml"], tokenizer)] == ids([IM_END]).tolist()
    assert eos_id_of(TEMPLATES["llama2"], tokenizer) == tokenizer.eos_id


def test_a_token_that_the_tokenizer_lacks_is_named(chatglm_directory, sentencepiece_path, qwen_like):
    cases = [
        ("chatml", chatglm_directory, r"chatml needs the special token <\|im_end\|>"),
        ("chatglm3", sentencepiece_path.parent, r"chatglm3 needs the special token \[gMASK\]"),
        ("llama2", qwen_like, "ends an answer with EOS"),
    ]
    for name, directory, message in cases:
        with pytest.raises(UserError, match=message):
            encode_response(assistant("a"), TEMPLATES[name], load_directory(directory))


def test_fingerprints_tell_contents_apart_and_not_names():
    assert TEMPLATES["mistral"].fingerprint == TEMPLATES["mixtral"].fingerprint
    different = {template.fingerprint for template in TEMPLATES.values()}
    aliases = {"mixtral", "deepseek2-lite", "internlm2"}
    assert len(different) == len(TEMPLATES) - len(aliases)


def test_eos_rules_in_words():
    rules = {name: TEMPLATES[name].eos_rule for name in ("llama2", "chatglm3", "chatml", "qwen3", "empty")}
    assert rules == {
        "llama2": "the tokenizer's EOS after every answer",
        "chatglm3": "the tokenizer's EOS after the final answer",
        "chatml": "<|im_end|> after every answer",
        "qwen3": "the text of the template ends every answer",
        "empty": "no EOS",
    }
