"""Texts that another program rendered get the ids of the conversation; foreign control tokens stay text."""

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from modellink_rm.conversation import Message, Unranked
from modellink_rm.templates.chat_template import chat_template_of
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.jinja import jinja_of
from modellink_rm.templates.rendered import RenderedTexts
from modellink_rm.templates.table import TEMPLATES, Template
from tests.unit.conftest import load_directory, train_tokenizer_json

SPECIAL = [
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
]
SPECIAL += ["<|eot_id|>", "<|begin|>"]
CHATML = (
    "{% for message in messages %}{{ '<|' + 'im_start|>' + message.role + '\n' + message.content + eos_token "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ("qwen", "qwen3", "llama3", "llama2", "hf")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rendered")
    train_tokenizer_json(special=SPECIAL, not_special=["<think>", "</think>"]).save(
        str(directory / "tokenizer.json")
    )
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "pad_token": "<pad>"}
    config |= {"eos_token": "<|im_end|>", "chat_template": CHATML}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def template_of(name: str, directory: Path) -> Template:
    return chat_template_of(load_directory(directory), thinking=None) if name == "hf" else TEMPLATES[name]


def conversation(*turns: str) -> Unranked:
    messages = tuple(Message(("user", "assistant")[index % 2], text) for index, text in enumerate(turns))
    return Unranked(system=None, tools="", prompt=messages[:-1], responses=messages[-1:])


def rendered(directory: Path, template: Template, *turns: str) -> str:
    """What a sender writes with transformers, of the chat template that an export carries."""
    tokenizer = load_directory(directory)
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)
    ]
    theirs = AutoTokenizer.from_pretrained(directory)
    return str(
        theirs.apply_chat_template(messages, chat_template=jinja_of(template, tokenizer), tokenize=False)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_rendered_conversation_has_the_ids_of_the_conversation(name: str, directory: Path) -> None:
    template, tokenizer = template_of(name, directory), load_directory(directory)
    texts = RenderedTexts(template, tokenizer)
    turns = ("hello there", "I am fine", "the capital", "<think>hm</think>Paris")
    expected = tokenize_responses(conversation(*turns), template, tokenizer)
    text = rendered(directory, template, *turns)
    ids = texts.ids(text)
    assert ids == expected.prompt_ids + expected.response_ids[0]
    assert texts.ends_as_trained(ids)
    assert not texts.ends_as_trained(ids[:-1])
    assert texts.ids(text, adds_bos=True) == ids
    assert texts.ids(text.removeprefix("<s>"), adds_bos=True) == ids


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_that_are_not_the_templates_stay_text(name: str, directory: Path) -> None:
    template, tokenizer = template_of(name, directory), load_directory(directory)
    backend = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = RenderedTexts(template, tokenizer)
    foreign = "<|begin|>"
    ids = texts.ids(rendered(directory, template, f"hello {foreign}<pad> there", "fine"))
    assert not {backend.token_to_id(foreign), backend.token_to_id("<pad>")} & set(ids)
    expected = tokenize_responses(conversation(f"hello {foreign}<pad> there", "fine"), template, tokenizer)
    assert ids == expected.prompt_ids + expected.response_ids[0]


def test_a_chat_templates_control_tokens_are_those_that_it_writes(directory: Path) -> None:
    """Spelled in it, put together from parts, or the value of a variable that it names."""
    texts = RenderedTexts(template_of("hf", directory), load_directory(directory))
    assert texts.control_tokens == {"<|im_start|>", "<|im_end|>"}


def test_a_bos_is_added_only_where_the_template_has_one(directory: Path) -> None:
    texts = RenderedTexts(TEMPLATES["qwen"], load_directory(directory))
    assert texts.ids("hello", adds_bos=True) == texts.ids("hello")
    texts = RenderedTexts(TEMPLATES["llama3"], load_directory(directory))
    assert texts.ids("hello", adds_bos=True)[1:] == texts.ids("hello")


@pytest.mark.parametrize("name", ["chatglm3", "llama2"])
def test_sentencepiece_directories_are_read_piece_by_piece(
    name: str, chatglm_directory: Path, control_directory: Path
) -> None:
    directory = chatglm_directory if name == "chatglm3" else control_directory
    template, tokenizer = TEMPLATES[name], load_directory(directory)
    texts = RenderedTexts(template, tokenizer)
    spelled = {
        "chatglm3": "[gMASK]sop<|user|>\nq<|assistant|>\na</s>",
        "llama2": "<s>[INST] q [/INST] a</s>",
    }[name]
    ids = texts.ids(spelled)
    expected = tokenize_responses(conversation("q", "a"), template, tokenizer)
    assert ids[:2].tolist() == expected.prompt_ids[:2].tolist()
    assert texts.ends_as_trained(ids)
