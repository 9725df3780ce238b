"""Tools as each model's publication writes them, spelled out; what has no form for them refuses."""

import pytest
import sentencepiece
import tokenizers

from modellink_rm.conversation import Message
from modellink_rm.records import RecordError
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import load_directory, train_tokenizer_json
from tests.unit.templates.rendering import encode_prompt

TOOLS = '[{"name": "get_weather", "description": "查天气", "parameters": {"type": "object"}}]'
WRAPPED = f'[{{"type": "function", "function": {TOOLS[1:-1]}}}]'

INDENTED = """{
    "name": "get_weather",
    "description": "查天气",
    "parameters": {
        "type": "object"
    }
}"""
LISTED = """[
    {
        "name": "get_weather",
        "description": "查天气",
        "parameters": {
            "type": "object"
        }
    }
]"""
GLM4 = f"""你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。

# 可用工具

## get_weather

{INDENTED}
在调用上述函数时，请使用 Json 格式表示调用的参数。"""  # noqa: E501
QWEN = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "get_weather", "description": "查天气", "parameters": {"type": "object"}}}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""  # noqa: E501
LLAMA3 = """Environment: ipython
You have access to the following functions. To call a function, please respond with JSON for a function call.Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.Do not use variables.

{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查天气",
        "parameters": {
            "type": "object"
        }
    }
}

"""  # noqa: E501
CHATGLM3_DEMO = "Answer the following questions as best as you can. You have access to the following tools:"

# name: system texts with tools beside the system "s", and without one
SYSTEM_TEXTS = {
    "chatglm3": ([f"s\n{LISTED}"], [f"{CHATGLM3_DEMO}\n{LISTED}"]),
    "glm4": ([GLM4, "s"], [GLM4]),
    "qwen": ([f"s\n\n{QWEN}"], [f"You are a helpful assistant.\n\n{QWEN}"]),
    "qwen3": ([f"s\n\n{QWEN}"], [QWEN]),
    "llama3": ([f"{LLAMA3}s"], [LLAMA3]),
}
TURNS = (Message("user", "q"),)


def directory_of(name, chatglm_directory, control_directory):
    return chatglm_directory if name.startswith("chatglm") else control_directory


@pytest.mark.parametrize("tools", [TOOLS, WRAPPED, TOOLS[1:-1]])
@pytest.mark.parametrize("name", sorted(SYSTEM_TEXTS))
def test_tools_stand_in_the_system_text_as_published(name, tools, chatglm_directory, control_directory):
    tokenizer = load_directory(directory_of(name, chatglm_directory, control_directory))
    template = TEMPLATES[name]
    for system, expected in zip(("s", None), SYSTEM_TEXTS[name], strict=True):
        got = encode_prompt(system, tools, TURNS, template, tokenizer).tolist()
        # A system message is written as it is without tools, held to hand-written pieces elsewhere.
        begin = encode_prompt("x", "", TURNS, template, tokenizer).tolist()
        one = system_message(name, "x", tokenizer)
        start = find(begin, one)
        messages = [index for text in expected for index in system_message(name, text, tokenizer)]
        assert got == begin[:start] + messages + begin[start + len(one) :]


def system_message(name, text, tokenizer):
    token = tokenizer.token_to_id
    encode = tokenizer.with_control_tokens(tokenizer.special_tokens).encode
    if name == "chatglm3":
        return [token("<|system|>"), *encode("\n"), *encode(text)]
    if name == "glm4":
        return [token("<|system|>"), *encode(f"\n{text}")]
    if name == "llama3":
        header = [token("<|start_header_id|>"), *encode("system"), token("<|end_header_id|>")]
        return [*header, *encode(f"\n\n{text}"), token("<|eot_id|>")]
    return [token("<|im_start|>"), *encode(f"system\n{text}"), token("<|im_end|>"), *encode("\n")]


def find(ids, part):
    return next(start for start in range(len(ids)) if ids[start : start + len(part)] == part)


@pytest.fixture(scope="module")
def mistral_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mistral_v3")
    special = ["<s>", "</s>", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[INST]", "[/INST]"]
    train_tokenizer_json(special=special).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return directory


def test_mistral_tools_stand_before_the_last_turn_of_the_user(mistral_directory):
    tokenizer = load_directory(mistral_directory)
    own = tokenizers.Tokenizer.from_file(str(mistral_directory / "tokenizer.json"))
    call, observation = Message("function_call", "[call]"), Message("observation", "o")
    turns = (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"), call, observation)
    pieces = [
        *("<s>", "s", "[INST] q1 [/INST]", "a1", "</s>"),
        *("[AVAILABLE_TOOLS]", WRAPPED, "[/AVAILABLE_TOOLS]"),
        *("[INST] q2 [/INST]", "[call]", "</s>", "[INST] o [/INST]"),
    ]
    expected = [index for piece in pieces for index in own.encode(piece).ids]
    assert encode_prompt("s", TOOLS, turns, TEMPLATES["mistral"], tokenizer).tolist() == expected


def test_mistral_v3_has_its_system_text_in_the_last_turn_of_the_user(mistral_directory):
    """mistral-common, instruct tokenizer v3."""
    tokenizer = load_directory(mistral_directory)
    own = tokenizers.Tokenizer.from_file(str(mistral_directory / "tokenizer.json"))
    turns = (Message("user", "q1"), Message("assistant", "a1"), Message("user", "q2"))
    pieces = ["<s>", "[INST]", "q1", "[/INST]", "a1", "</s>", "[INST]", "s\n\nq2", "[/INST]"]
    expected = [index for piece in pieces for index in own.encode(piece).ids]
    assert encode_prompt("s", "", turns, TEMPLATES["mistral_v3"], tokenizer).tolist() == expected


def test_mistral_without_the_tokens_of_version_3_refuses_tools_only(control_directory):
    tokenizer = load_directory(control_directory)
    assert encode_prompt(None, "", TURNS, TEMPLATES["mistral"], tokenizer)
    with pytest.raises(RecordError) as error:
        encode_prompt(None, TOOLS, TURNS, TEMPLATES["mistral"], tokenizer)
    assert error.value.reason == "the tokenizer has no [AVAILABLE_TOOLS]"


WITH_TOOLS = {
    *SYSTEM_TEXTS,
    "mistral_v3",
    "chatglm3_system",
    "mistral",
    "mixtral",
    "qwen3_thinking",
    "qwen3_no_thinking",
}


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - WITH_TOOLS))
def test_a_template_without_a_form_for_tools_refuses_them(name, chatglm_directory, control_directory):
    tokenizer = load_directory(directory_of(name, chatglm_directory, control_directory))
    with pytest.raises(RecordError) as error:
        encode_prompt("s", TOOLS, TURNS, TEMPLATES[name], tokenizer)
    assert "has no form for tools" in error.value.reason


@pytest.mark.parametrize(
    "tools", ["f(x)", "3", "[3]", '[{"description": "no name"}]', '[{"name": 3}]', "[" * 5000, "null"]
)
def test_tools_that_are_no_list_of_functions_are_refused(tools, control_directory):
    with pytest.raises(RecordError, match="tools are not a JSON list of functions"):
        encode_prompt("s", tools, TURNS, TEMPLATES["qwen"], load_directory(control_directory))


def test_control_tokens_spelled_in_tools_are_text(control_directory):
    tokenizer = load_directory(control_directory)
    tools = TOOLS.replace("查天气", "<|im_end|>")
    ids = encode_prompt("s", tools, TURNS, TEMPLATES["qwen"], tokenizer)
    plain = encode_prompt("s", TOOLS, TURNS, TEMPLATES["qwen"], tokenizer)
    end = tokenizer.token_to_id("<|im_end|>")
    assert ids.count(end) == plain.count(end)
    own = sentencepiece.SentencePieceProcessor(model_file=str(control_directory / "tokenizer.model"))
    assert "<|im_end|>" in own.decode([index for index in ids if index < own.get_piece_size()])


def test_tools_that_have_a_key_twice_are_refused(control_directory):
    tokenizer, turns = load_directory(control_directory), (Message("user", "q"),)
    with pytest.raises(RecordError, match="an object with a key twice: 'name', in the JSON of a text"):
        encode_prompt(None, '[{"name": "f", "name": "g"}]', turns, TEMPLATES["qwen"], tokenizer)


@pytest.mark.parametrize("name", ["qwen", "mistral"])
def test_half_a_surrogate_pair_that_escapes_spell_in_tools_is_refused(name, mistral_directory, request):
    directory = mistral_directory if name == "mistral" else request.getfixturevalue("control_directory")
    tools = r'[{"name": "f", "description": "\ud800"}]'
    with pytest.raises(RecordError, match="half of a surrogate pair"):
        encode_prompt(None, tools, (Message("user", "q"),), TEMPLATES[name], load_directory(directory))
