"""--prompt-type hf gives the ids of transformers' own apply_chat_template."""

import json
import re
import resource
import signal
import sys
from array import array
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair
from modellink_rm.records import RecordError
from modellink_rm.templates import chat_template
from modellink_rm.templates.choice import find_template, kept_template
from modellink_rm.templates.encode import (
    num_closing_tokens,
    tokenize_responses,
)
from modellink_rm.templates.files import definition_of
from modellink_rm.templates.render_process import RenderProcess
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import SENTENCES, load_directory, train_tokenizer_json
from tests.unit.templates.rendering import encode_prompt

CHATML = """{%- if tools %}<|im_start|>system
# Tools{% for tool in tools %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
TURNS = (
    Message("user", "What is the capital?"),
    Message("assistant", "Paris."),
    Message("user", "And\n\nnow?"),
)
PAIR = Pair(None, "", TURNS, Message("assistant", "a large city"), Message("assistant", "你好 fox"))


def directory_with(tmp_path_factory, chat_template):
    directory = tmp_path_factory.mktemp("chat")
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    backend = train_tokenizer_json(special=special, not_special=["<think>", "</think>"])
    backend.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if chat_template:
        config["chat_template"] = chat_template
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    return directory_with(tmp_path_factory, CHATML)


@pytest.fixture(scope="module")
def llama2(tmp_path_factory):
    return directory_with(tmp_path_factory, LLAMA2)


def ids_up_to_the_end(directory, turns):
    """Of a whole conversation, without the line break that ChatML has after the end of an answer."""
    ids = expected_ids(directory, turns, opens=False)
    line_break = load_directory(directory).encode("\n")
    return ids[: -len(line_break)] if ids[-len(line_break) :].tolist() == line_break else ids


def expected_ids(directory, turns, *, opens, **options):
    from transformers import AutoTokenizer

    roles = {"user": "user", "assistant": "assistant", "observation": "tool", "function_call": "assistant"}
    messages = [{"role": roles[turn.role], "content": turn.content} for turn in turns]
    if "system" in options:
        messages.insert(0, {"role": "system", "content": options.pop("system")})
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    text = tokenizer.apply_chat_template(
        messages, add_generation_prompt=opens, tokenize=True, return_dict=True, **options
    )
    return array("i", text["input_ids"])


@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_ids_are_those_of_transformers(name, request):
    directory = request.getfixturevalue(name)
    tokenizer = load_directory(directory)
    template = find_template("hf", tokenizer)
    tokens = tokenize_responses(PAIR, template, tokenizer)
    assert tokens.prompt_ids == expected_ids(directory, TURNS, opens=True)
    chosen = ids_up_to_the_end(directory, (*TURNS, PAIR.chosen))
    rejected = ids_up_to_the_end(directory, (*TURNS, PAIR.rejected))
    assert (tokens.prompt_ids + tokens.response_ids[0], tokens.prompt_ids + tokens.response_ids[1]) == (
        chosen,
        rejected,
    )


@pytest.mark.parametrize("scheme", ["first", "always"])
@pytest.mark.parametrize("strips", [{}, {"lstrip": True}, {"rstrip": True}, {"normalized": True}])
def test_ids_are_those_of_transformers_where_spaces_begin_words(tmp_path, scheme, strips):
    """The prompt is tokenised once, up to a token that nothing before it has a part in."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = tokenizers.normalizers.Lowercase()
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_special_tokens(["<s>", "</s>", tokenizers.AddedToken("<|im_start|>", special=True, **strips)])
    backend.add_special_tokens([tokenizers.AddedToken("<|im_end|>", special=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    for text in (CHATML, LLAMA2):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
        config["chat_template"] = text
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer = load_directory(tmp_path)
        tokens = tokenize_responses(PAIR, find_template("hf", tokenizer), tokenizer)
        assert tokens.prompt_ids == expected_ids(tmp_path, TURNS, opens=True)
        chosen = ids_up_to_the_end(tmp_path, (*TURNS, PAIR.chosen))
        assert tokens.prompt_ids + tokens.response_ids[0] == chosen


def test_system_tools_observations_and_thinking_reach_the_chat_template(chatml):
    tokenizer = load_directory(chatml)
    turns = (Message("user", "q"), Message("function_call", "f(1)"), Message("observation", "2"))
    tools = '[{"type": "function", "function": {"name": "查"}}]'
    template = find_template("hf", tokenizer, enable_thinking="false")
    got = encode_prompt("s", tools, turns, template, tokenizer)
    options = {"system": "s", "tools": json.loads(tools), "enable_thinking": False}
    assert got == expected_ids(chatml, turns, opens=True, **options)
    assert got.count(tokenizer.token_to_id("<think>")) == 1
    other = find_template("hf", tokenizer)
    assert template.fingerprint != other.fingerprint
    assert tokenizer.token_to_id("<think>") not in encode_prompt("s", tools, turns, other, tokenizer)


def test_control_tokens_in_messages_are_text(chatml):
    tokenizer = load_directory(chatml)
    template = find_template("hf", tokenizer)
    spelled = "x<|im_end|>\n<|im_start|>y </s> \ue000"
    question, answer = Message("user", spelled), Message("assistant", spelled)
    tokens = tokenize_responses(Pair(None, "", (question,), answer, answer), template, tokenizer)
    end, start = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|im_start|>")
    assert (tokens.prompt_ids.count(start), tokens.prompt_ids.count(end)) == (2, 1)
    assert (tokens.response_ids[0].count(end), tokens.response_ids[0].count(tokenizer.eos_id)) == (1, 0)
    assert tokenizer.decode(tokens.response_ids[0].tolist()) == f"{spelled}<|im_end|>"


WITH_CALLS = CHATML.replace(
    "message.content + '<|im_end|>",
    "message.content + ((message.tool_calls or '') | tojson) + '<|im_end|>",
)


@pytest.mark.parametrize(
    "spelled",
    [r"\u003c|im_end|\u003e", "<|im_end|>", r"<|im_end|\u003e\ue000"],
    ids=["escapes", "plain", "mark"],
)
def test_control_tokens_that_escapes_spell_in_tools_and_calls_are_text(spelled, tmp_path_factory):
    directory = directory_with(tmp_path_factory, WITH_CALLS)
    tokenizer = load_directory(directory)
    template = find_template("hf", tokenizer)
    tools = f'[{{"name": "f", "description": "{spelled}", "parameters": {{"{spelled}": ["{spelled}"]}}}}]'
    call = Message("function_call", f'{{"name": "f", "arguments": {{"{spelled}": "{spelled}"}}}}')
    turns = (Message("user", "q"), call, Message("observation", "o"))
    tokens = tokenize_responses(Pair(None, tools, turns, call, call), template, tokenizer)
    end = tokenizer.token_to_id("<|im_end|>")
    assert (tokens.prompt_ids.count(end), tokens.response_ids[0].count(end)) == (4, 1)
    assert tokenizer.decode((tokens.prompt_ids + tokens.response_ids[0]).tolist()).count("<|im_end|>") == 12


def test_tools_without_a_turn_are_rendered(chatml):
    """Of a handler of the user, whose prompt may be empty."""
    tokenizer = load_directory(chatml)
    ids = encode_prompt(None, '[{"name": "f"}]', (), find_template("hf", tokenizer), tokenizer)
    assert "Tools" in tokenizer.decode(ids.tolist())


@pytest.mark.parametrize("depth", [970, 985, 5000, 100_000])
def test_deep_tools_are_one_bad_record(depth, chatml):
    tokenizer = load_directory(chatml)
    deep = f'[{{"name": "f", "parameters": {"[" * depth}{"]" * depth}}}]'
    with pytest.raises(RecordError):
        encode_prompt(None, deep, (Message("user", "q"),), find_template("hf", tokenizer), tokenizer)


def test_a_chat_template_that_escapes_the_mark_of_a_control_token_refuses_the_record(tmp_path_factory):
    tokenizer = load_directory(directory_with(tmp_path_factory, CHATML.replace("tool | tojson", "tool")))
    template, turns = find_template("hf", tokenizer), (Message("user", "q"),)
    assert encode_prompt(None, '[{"name": "f"}]', turns, template, tokenizer)
    with pytest.raises(RecordError, match="escapes what a control token"):
        encode_prompt(None, '[{"name": "<|im_end|>"}]', turns, template, tokenizer)


FIRST_AND_SECOND = (
    "{{ messages[0].content }}<|im_start|>{% if messages[1] %}{{ messages[1].content }}<|im_end|>{% endif %}"
)
LAST_QUESTION = (
    "{% for m in messages if m.role == 'user' %}{% if loop.last %}{{ m.content }}<|im_start|>{% endif %}"
    "{% endfor %}{% if messages[-1].role == 'assistant' %}{{ messages[-1].content }}<|im_end|>{% endif %}"
)
TOOLS_OR_SYSTEM = (
    "{% if tools %}{{ tools | tojson }}{% elif messages[0].role == 'system' %}{{ messages[0].content }}"
    "{% endif %}{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "tools", "turns", "message"),
    [
        (FIRST_AND_SECOND, "", TURNS, "leaves out turns of a longer conversation"),
        (LAST_QUESTION, "", TURNS, "leaves out turns of a longer conversation"),
        (TOOLS_OR_SYSTEM, '[{"name": "f"}]', TURNS, "leaves out a system message beside tools"),
    ],
    ids=["first", "last", "system"],
)
def test_a_chat_template_that_leaves_out_a_part_refuses_the_record(
    text, tools, turns, message, tmp_path_factory
):
    tokenizer = load_directory(directory_with(tmp_path_factory, text))
    template = find_template("hf", tokenizer)
    assert encode_prompt(None, tools, turns[:1], template, tokenizer)
    with pytest.raises(RecordError, match=message):
        encode_prompt("a system message" if tools else None, tools, turns, template, tokenizer)


@pytest.mark.parametrize(
    "name", ["<|im_start|>", "<\N{FULLWIDTH VERTICAL LINE}User\N{FULLWIDTH VERTICAL LINE}>"]
)
def test_control_tokens_that_the_tokenizer_does_not_flag_are_text_in_messages(name, tmp_path):
    """As of DeepSeek, or extended for ChatML; <think>, which the template writes too, stays one."""
    names = [name, "<think>", "</think>"]
    train_tokenizer_json(special=["<s>", "</s>", "<|im_end|>"], not_special=names).save(
        str(tmp_path / "tokenizer.json")
    )
    text = CHATML.replace("<|im_start|>", name)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": text}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_directory(tmp_path)
    template = find_template("hf", tokenizer)
    plain, spelled = (
        Message("assistant", "<think>b</think>"),
        Message("assistant", f"{name}<think>b</think>"),
    )
    tokens = tokenize_responses(Pair(None, "", (Message("user", name),), plain, spelled), template, tokenizer)
    start, thought = tokenizer.token_to_id(name), tokenizer.token_to_id("<think>")
    assert tokens.prompt_ids.count(start) == 2
    assert [ids.count(start) for ids in tokens.response_ids] == [0, 0]
    assert [ids.count(thought) for ids in tokens.response_ids] == [1, 1]


def test_closing_tokens_and_rule(chatml, llama2):
    for directory in (chatml, llama2):
        tokenizer = load_directory(directory)
        template = find_template("hf", tokenizer)
        assert num_closing_tokens(template, tokenizer) == 1
        assert template.eos_rule == "the chat template ends every answer"


def test_what_the_chat_template_refuses_is_one_bad_record(llama2):
    tokenizer = load_directory(llama2)
    template = find_template("hf", tokenizer)
    with pytest.raises(RecordError, match="must alternate"):
        encode_prompt("a system message", "", TURNS, template, tokenizer)
    with pytest.raises(RecordError, match="has no form for tools"):
        encode_prompt(None, '[{"name": "f"}]', TURNS, template, tokenizer)


def test_thinking_is_refused_where_the_chat_template_does_not_read_it(llama2):
    with pytest.raises(UserError, match="does not read enable_thinking; leave the flag out"):
        find_template("hf", load_directory(llama2), enable_thinking="false")


def test_a_tokenizer_without_a_chat_template_is_named(tmp_path_factory, sentencepiece_path):
    directory = directory_with(tmp_path_factory, None)
    with pytest.raises(UserError, match="has no chat template"):
        find_template("hf", load_directory(directory))


LOOP = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set n = namespace(x='x' * 1000) %}"
    "{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
)
RECURSIVE = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"
HARMFUL = {
    LOOP: "takes more than 0.2 s",
    DOUBLING: "takes too much memory",
    RECURSIVE: "the chat template: maximum recursion depth",
    "{{ 'x' * 10 ** 10 }}": r"uses \*\*, which is not allowed",
    "{{ messages[0].role * 100000000000 }}": "takes too much memory",
    "{{ messages[0].role * 20000000 }}": "renders too long a text",
    "{% for a in range(10**9) %}{% endfor %}": r"uses \*\*, which is not allowed",
    "{% for a in range(1000000000) %}{% endfor %}": "the chat template: Range too big",
    "{{ 1 // 0 }}": "the chat template: .*by zero",
    "{{ ''.__class__.__mro__ }}": "the chat template: access to attribute '__class__'",
    "{{ messages.append(1) }}": "the chat template: access to attribute 'append'",
    "{% include '/etc/passwd' %}": "the chat template: no loader",
    "{% for": "cannot be read: unexpected 'end of template'",
    # Constants, which jinja2 computes when it compiles a template, and whose failures it drops.
    "".join(f"{{% set z = ('a b' * 400000)|wordwrap({n}) %}}" for n in range(1, 9)): "takes more than 0.2 s",
    "{% set now = strftime_now %}{{ now('%S') }}": "reads today's date",
    "{{ range(9)|random }}": "uses random numbers",
    "{{ lipsum() }}": "writes random text",
    "{{ messages[0].content }}": "leaves out the text of an answer",
    "{{ messages[1].content }}": "leaves out the text of a question",
    "\ud800{{ messages }}": "half of a surrogate pair",
    "{{" + "(" * 20_000 + ")" * 20_000 + "}}": "cannot be read: maximum recursion depth",
}


@pytest.mark.parametrize("text", sorted(HARMFUL))
def test_a_harmful_chat_template_is_one_line_before_any_record(tmp_path_factory, text, monkeypatch):
    if "0.2 s" in HARMFUL[text]:  # on a busy machine the others take as long until they are refused
        monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    tokenizer = load_directory(directory_with(tmp_path_factory, text))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(UserError, match=HARMFUL[text]) as error:
        num_closing_tokens(find_template("hf", tokenizer), tokenizer)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 600
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("text", [LOOP, DOUBLING, "{{ 1 // 0 }}"])
def test_the_limits_hold_in_any_thread_and_for_no_other(tmp_path_factory, text, monkeypatch):
    """Beside other threads it is another process that is limited."""
    if text == LOOP:
        monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    harmful = load_directory(directory_with(tmp_path_factory, text))
    harmless = load_directory(directory_with(tmp_path_factory, CHATML))
    seen = []

    def refused() -> str:
        try:
            num_closing_tokens(find_template("hf", harmful), harmful)
        except UserError as error:
            return str(error)
        return ""

    def ids() -> list[int]:
        return list(encode_prompt(None, "", (Message("user", "q"),), find_template("hf", harmless), harmless))

    with ThreadPoolExecutor(2) as pool:
        told, found = pool.submit(refused), pool.submit(ids)
        while not told.done():
            seen.append(resource.getrlimit(resource.RLIMIT_AS))
    assert re.search(HARMFUL[text], told.result())
    assert found.result() == ids()
    assert set(seen) <= {limits}


@pytest.mark.parametrize("text", ["{{ 10**10**9 }}", "{{ [1, 2]|random }}"])
def test_a_harmful_chat_template_of_a_checkpoint_is_refused_like_a_tokenizers(tmp_path_factory, text):
    tokenizer = load_directory(directory_with(tmp_path_factory, CHATML))
    template = kept_template("hf", {"name": "hf", "chat_template": CHATML + text}, where="here")
    with pytest.raises(UserError, match=r"which is not allowed|uses random numbers"):
        tokenize_responses(PAIR, template, tokenizer)


def test_a_chat_template_that_is_no_text_is_refused(tmp_path_factory):
    tokenizer = load_directory(directory_with(tmp_path_factory, 5))
    with pytest.raises(UserError, match="is no text"):
        find_template("hf", tokenizer)


def test_a_record_with_control_tokens_and_every_mark_is_one_bad_record(chatml):
    tokenizer = load_directory(chatml)
    text = "<s>" + "".join(chat_template._MARKS)
    with pytest.raises(RecordError, match="private-use"):
        encode_prompt(None, "", (Message("user", text),), find_template("hf", tokenizer), tokenizer)


def test_the_rendering_process_runs_no_module_of_the_working_directory(tmp_path, monkeypatch):
    for name in ("json", "jinja2", "modellink_rm"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [name for name in sys.path if name])
    process = RenderProcess()
    assert process.render({"name": "you"}, "for {{ name }}", seconds=5) == "for you"
    process._end()
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_that_fails_on_one_record_leaves_the_others(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.2)
    text = CHATML + "{% if 'loop' in messages[0].content %}" + LOOP + "{% endif %}"
    tokenizer = load_directory(directory_with(tmp_path_factory, text))
    template = find_template("hf", tokenizer)
    with pytest.raises(RecordError, match="takes more than"):
        encode_prompt(None, "", (Message("user", "a loop"),), template, tokenizer)
    assert encode_prompt(None, "", (Message("user", "q"),), template, tokenizer)


def test_a_process_that_cannot_be_started_is_no_refusal_of_the_template(chatml, monkeypatch):
    tokenizer = load_directory(chatml)
    template = find_template("hf", tokenizer)

    def cannot_start(*given):
        raise UserError("the process that renders chat templates could not be started")

    monkeypatch.setattr(chat_template, "_rendered", cannot_start)
    with pytest.raises(UserError, match="could not be started"):
        encode_prompt(None, "", (Message("user", "q"),), template, tokenizer)


def test_several_chat_templates_without_a_default_are_said(tmp_path_factory):
    two = [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]
    tokenizer = load_directory(directory_with(tmp_path_factory, two))
    with pytest.raises(UserError, match="multiple chat templates"):
        find_template("hf", tokenizer)


OWN_CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path(__file__).with_name("ran").touch()
Path({marker!r}).touch()
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("trusts", [False, True])
def test_a_tokenizers_own_code_runs_only_where_the_user_trusts_it(
    tmp_path_factory, tmp_path, trusts, monkeypatch
):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    directory = directory_with(tmp_path_factory, CHATML)
    (directory / "own.py").write_text(OWN_CODE.format(marker=str(tmp_path / "ran")))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_directory(directory, trust_remote_code=trusts)
    if trusts:
        assert CHATML in find_template("hf", tokenizer).chat_template
    else:
        with pytest.raises(UserError, match="--trust-remote-code"):
            find_template("hf", tokenizer)
    assert (tmp_path / "ran").exists() is trusts


# The published forms, written out short: Qwen2.5 and Qwen3, Gemma 3, Mistral v0.2.
QWEN_TOOLS = """{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}{{- '\\n' }}{% endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""
FIRST_USER = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\\n\\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% set text = (first if loop.first else '') + m.content %}"
)
GEMMA3 = FIRST_USER + (
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\\n' }}"
    "{{ text + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL_V1 = FIRST_USER + (
    "{% if m.role == 'user' %}{{ '[INST] ' + text + ' [/INST]' }}{% else %}{{ text + eos_token }}{% endif %}"
    "{% endfor %}"
)
CALLED = Message("function_call", 'so:\n{"name": "f", "arguments": {"x": ["é"]}}')
CALLING = (TURNS[0], CALLED, Message("observation", "2"), *TURNS[1:])


@pytest.mark.parametrize(
    ("name", "text", "turns", "answer"),
    [
        ("qwen3", QWEN_TOOLS, CALLING, CALLED),
        ("gemma3", GEMMA3, TURNS, PAIR.chosen),
        ("mistral_v1", MISTRAL_V1, TURNS, PAIR.chosen),
    ],
)
def test_a_template_of_the_table_writes_what_the_published_chat_template_does(
    tmp_path_factory, name, text, turns, answer
):
    """The texts are equal; ids differ where tokens merge across the slots of the table."""
    tokenizer = load_directory(directory_with(tmp_path_factory, text))
    pair = Pair("a system", "", turns, answer, answer)
    written = []
    for template in (TEMPLATES[name], find_template("hf", tokenizer)):
        tokens = tokenize_responses(pair, template, tokenizer)
        written.append(tokenizer.decode([*tokens.prompt_ids, *tokens.response_ids[0]]))
    # Only the table has the line break that ChatML writes after the end of an answer.
    assert written[0].removesuffix("\n") == written[1].removesuffix("\n")


@pytest.mark.parametrize("thinking", ["none", "false"])
def test_a_chat_template_is_read_back_from_its_definition(chatml, thinking):
    """As training and scoring read it, from the manifest and from the checkpoint."""
    template = find_template("hf", load_directory(chatml), enable_thinking=thinking)
    definition = json.loads(json.dumps(definition_of(template)))
    assert kept_template("hf", definition, where="the manifest") == template
