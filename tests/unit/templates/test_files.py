"""Templates of a file, in the form of MindSpeed-LLM's templates.json."""

import json

import pytest
import yaml

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.files import definition_of, template_of_definition
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import load_directory
from tests.unit.templates.rendering import encode_prompt, encode_response

# As MindSpeed-LLM's configs/finetune/templates.json writes them, but for qwen3's observations and calls.
PUBLISHED = [
    {
        "name": "chatglm2",
        "format_user": {"slots": ["[Round {{idx}}]\n\n问：{{content}}\n\n答："]},
        "format_prefix": {"slots": [{"token": "[gMASK]"}, {"token": "sop"}]},
        "format_assistant": {"slots": ["{{content}}"]},
        "format_separator": {"slots": ["\n\n"]},
        "efficient_eos": True,
    },
    {
        "name": "gemma",
        "format_user": {"slots": ["<start_of_turn>user\n{{content}}<end_of_turn>\n<start_of_turn>model\n"]},
        "format_observation": {
            "slots": ["<start_of_turn>tool\n{{content}}<end_of_turn>\n<start_of_turn>model\n"]
        },
        "format_assistant": {"slots": ["{{content}}"]},
        "format_separator": {"slots": ["<end_of_turn>\n"]},
        "format_prefix": {"slots": [["bos_token"]]},
        "efficient_eos": True,
    },
    {
        "name": "llama2",
        "format_user": {"slots": [["bos_token"], "[INST] {{content}} [/INST]"]},
        "format_system": {"slots": ["<<SYS>>\n{{content}}\n<</SYS>>\n\n"]},
        "template_class": "Llama2Template",
    },
    {
        "name": "qwen3",
        "format_user": {
            "slots": ["<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"],
        },
        "format_observation": {
            "slots": [
                "<|im_start|>user\n<tool_response>\n{{content}}\n</tool_response><|im_end|>\n"
                "<|im_start|>assistant\n"
            ],
        },
        "call_format": "qwen",
        "format_assistant": {"slots": ["{{content}}<|im_end|>\n"]},
        "format_system": {"slots": ["<|im_start|>system\n{{content}}<|im_end|>\n"]},
        "format_tools": {"tool_format": "qwen"},
        "stop_words": ["<|im_end|>"],
        "replace_eos": True,
        "template_class": "ReasoningTemplate",
    },
]


@pytest.mark.parametrize("ending", ["json", "yaml"])
@pytest.mark.parametrize("name", [entry["name"] for entry in PUBLISHED])
def test_a_published_file_gives_the_template_of_the_table(tmp_path, name, ending, control_directory):
    path = tmp_path / f"templates.{ending}"
    path.write_text(json.dumps(PUBLISHED) if ending == "json" else yaml.safe_dump(PUBLISHED))
    template = find_template(name, load_directory(control_directory), path=str(path))
    assert template == TEMPLATES[name]
    assert template.fingerprint == TEMPLATES[name].fingerprint


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_template_is_read_back_from_its_definition(name):
    definition = json.loads(json.dumps(definition_of(TEMPLATES[name])))
    assert template_of_definition(definition, where="here") == TEMPLATES[name]


def test_a_template_of_ones_own(tmp_path, control_directory):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\n"
        "format_user: {slots: ['<|user|>{x} {{content}}', {token: <|assistant|>}]}\n"
        "format_assistant: {slots: ['{{content}}', [eos_token]]}\n"
        "stop_words: [<|im_end|>]\n"
        "replace_eos: true\n"
    )
    tokenizer = load_directory(control_directory)
    template = find_template("mine", tokenizer, path=str(path))
    token = tokenizer.token_to_id
    text = tokenizer.encode("{x} {{content}}")
    question, answer = Message("user", "{{content}}"), Message("assistant", "a")
    prompt = encode_prompt(None, "", (question,), template, tokenizer)
    assert prompt.tolist() == [token("<|user|>"), *text, token("<|assistant|>")]
    assert encode_response(answer, template, tokenizer).tolist() == [
        *tokenizer.encode("a"),
        token("<|im_end|>"),
    ]


GOOD = {"name": "x", "format_user": {"slots": ["{{content}}"]}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "x"}, "template x: format_user is missing"),
        ({**GOOD, "format_usr": {}}, "unknown key 'format_usr'; did you mean format_user"),
        ({**GOOD, "format_user": {"slots": ["q"]}}, r"must hold {{content}} once, it does 0 times"),
        ({**GOOD, "format_user": {"slots": ["{content}"]}}, r"write {{content}} for the field, with two"),
        ({**GOOD, "format_user": {"slots": "{{content}}"}}, "format_user must be a list of slots"),
        ({**GOOD, "format_system": {"slots": [{"tok": "x"}, "{{content}}"]}}, "format_system: a slot is a"),
        ({**GOOD, "stop_words": "x"}, "stop_words must be a list, got 'x'"),
        ({**GOOD, "format_user": ["\ud800{{content}}"]}, "format_user: half of a surrogate pair, at char"),
        ({**GOOD, "format_prefix": [{"token": "\udc00"}]}, "format_prefix: half of a surrogate pair"),
        ({**GOOD, "default_system": "a\ud800"}, "default_system: half of a surrogate pair, at character 2"),
        ({**GOOD, "replace_eos": True}, "replace_eos needs stop_words"),
        ({**GOOD, "replace_eos": "yes"}, "replace_eos must be true or false, got 'yes'"),
        ({**GOOD, "template_class": "X"}, "unknown template_class 'X'"),
        ({**GOOD, "format_tools": {"tool_format": "glm"}}, "unknown tool_format 'glm'; did you mean glm4"),
        ({"format_user": {}}, "every template is an object with a name"),
        ({**GOOD, "name": "y"}, r"unknown --prompt-type in .* 'x' \(choices: y\)"),
    ],
)
def test_a_file_that_cannot_work_is_an_error(tmp_path, entry, message, control_directory):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=message):
        find_template("x", load_directory(control_directory), path=str(path))


@pytest.mark.parametrize(("name", "text"), [("x.json", "{"), ("x.yaml", "a: [")])
def test_a_broken_file_is_an_error(tmp_path, name, text, control_directory):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        find_template("x", load_directory(control_directory), path=str(tmp_path / name))
    with pytest.raises(UserError, match="does not exist"):
        find_template("x", load_directory(control_directory), path=str(tmp_path / "nowhere.json"))


def test_thinking_by_name_and_where_it_means_nothing(tmp_path, control_directory):
    tokenizer = load_directory(control_directory)
    assert find_template("qwen3", tokenizer, enable_thinking="true") is TEMPLATES["qwen3_thinking"]
    assert find_template("qwen3", tokenizer, enable_thinking="false") is TEMPLATES["qwen3_no_thinking"]
    assert find_template("qwen3", tokenizer) is TEMPLATES["qwen3"]
    with pytest.raises(UserError, match="--enable-thinking true: --prompt-type qwen does not support it"):
        find_template("qwen", tokenizer, enable_thinking="true")
    path = tmp_path / "x.json"
    path.write_text(json.dumps(PUBLISHED))
    own = find_template("qwen3", tokenizer, path=str(path), enable_thinking="false")
    assert own.fingerprint == TEMPLATES["qwen3_no_thinking"].fingerprint


def test_an_unknown_name_lists_hf_too(control_directory):
    with pytest.raises(UserError, match=r"unknown --prompt-type 'hff'; did you mean hf\?"):
        find_template("hff", load_directory(control_directory))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"format_user": {"slots": ["{{content}}"]}}, "format_user has no meaning beside chat_template"),
        ({"strip_thoughts": True}, "strip_thoughts has no meaning beside chat_template"),
    ],
)
def test_what_a_chat_template_replaces_is_refused_beside_it(more, message):
    """It is not kept with the data, whose template would be another one when it is read back."""
    entry = {"name": "mine", "chat_template": "{{ messages }}", **more}
    with pytest.raises(UserError, match=message):
        template_of_definition(entry, where="mine.json")


def test_a_chat_template_of_a_file_that_leaves_out_the_answer_is_refused(tmp_path, control_directory):
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"name": "mine", "chat_template": "{{ messages[0]['content'] }}"}))
    with pytest.raises(
        UserError, match="--prompt-type mine: the chat template leaves out the text of an ans"
    ):
        find_template("mine", load_directory(control_directory), path=str(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '{"name": "x", "format_user": ["A {{content}}"], "format_user": ["B {{content}}"]}'),
        ("x.yaml", "name: x\nformat_user: ['A {{content}}']\nformat_user: ['B {{content}}']\n"),
        ("x.yaml", "name: x\nformat_user: {slots: ['A {{content}}'], slots: ['B {{content}}']}\n"),
    ],
)
def test_a_file_with_a_key_twice_is_an_error(tmp_path, name, text, control_directory):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="is twice in one object"):
        find_template("x", load_directory(control_directory), path=str(tmp_path / name))


def test_a_name_that_two_templates_of_a_file_have_is_an_error(tmp_path, control_directory):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "default_system": "s"}]))
    with pytest.raises(UserError, match="holds 2 templates named x"):
        find_template("x", load_directory(control_directory), path=str(path))


@pytest.mark.parametrize("key", ["format_user", "stop_words", "default_system", "template_class"])
def test_an_error_quotes_a_few_of_millions_of_texts_that_aliases_stand_for(tmp_path, key, control_directory):
    lists = ["&l0 [lol]", *(f"&l{level} [{', '.join(10 * [f'*l{level - 1}'])}]" for level in range(1, 7))]
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\nforce_system: [{', '.join(lists)}]\n{key}: *l6\n")
    with pytest.raises(UserError, match=f"{key}.* got ") as refused:
        find_template("x", load_directory(control_directory), path=str(path))
    assert len(str(refused.value)) < 1000
