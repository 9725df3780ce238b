"""A template's chat template in Jinja renders, tokenised by transformers, the ids of the template's slots."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversation import Message, Unranked
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.jinja import SPACES, jinja_of
from modellink_rm.templates.table import BOS, TEMPLATES, Template, Token
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer
from tests.tiny_data import random_text

CONTROL = (
    "<s>", "</s>", "<pad>", "[gMASK]", "<sop>", "sop", "<|system|>", "<|user|>", "<|assistant|>",
    "<|observation|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<start_of_turn>", "<end_of_turn>",
)  # fmt: skip

# Those of `empty` follow each other directly: as one text, their tokens merge across the slots.
NAMES = sorted({template.name for template in TEMPLATES.values()} - {"empty"})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with merges, BOS, EOS and the control tokens of the templates."""
    directory = tmp_path_factory.mktemp("tokenizer")
    generator = random.Random(5)
    backend = tokenizers.ByteLevelBPETokenizer()
    backend.train_from_iterator([random_text(generator, 20, 40) for _ in range(100)], vocab_size=500)
    own = tokenizers.Tokenizer.from_str(backend.to_str())
    own.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in CONTROL])
    own.save(str(directory / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory)))


@pytest.fixture(scope="module")
def theirs(directory: Path) -> PreTrainedTokenizerFast:
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(directory)
    return loaded


def conversations(*, has_system: bool, has_thoughts: bool) -> list[Unranked]:
    generator = random.Random(11)
    found = []
    for number in range(6):
        turns = [random_text(generator) for _ in range(2 * (number % 3) + 2)]
        if has_thoughts:
            thoughts = ["<think>\nhm\n</think>\n\n", ""]
            turns = [
                thoughts[(index + number) % 2] + text if index % 2 else text
                for index, text in enumerate(turns)
            ]
        messages = tuple(
            Message("assistant" if index % 2 else "user", text) for index, text in enumerate(turns)
        )
        system = random_text(generator) if has_system and number % 2 else None
        found.append(Unranked(system=system, tools="", prompt=messages[:-1], responses=messages[-1:]))
    return found


def messages_of(conversation: Unranked) -> list[dict[str, str]]:
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    turns = (*conversation.prompt, *conversation.responses)
    return system + [{"role": turn.role, "content": turn.content} for turn in turns]


def rendered(theirs: PreTrainedTokenizerFast, jinja: str, messages: list[dict[str, str]]) -> list[int]:
    text = theirs.apply_chat_template(messages, chat_template=jinja, tokenize=False)
    ids: list[int] = theirs(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("name", NAMES)
def test_every_template_of_the_table_renders_the_ids_of_its_slots(
    name: str, tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    template = TEMPLATES[name]
    jinja = jinja_of(template, tokenizer)
    has_system = template.system_rule != "refused"
    for conversation in conversations(has_system=has_system, has_thoughts=template.strip_thoughts):
        tokens = tokenize_responses(conversation, template, tokenizer)
        expected = [*tokens.prompt_ids, *tokens.response_ids[0]]
        assert rendered(theirs, jinja, messages_of(conversation)) == expected
        if name.startswith("llama3"):
            assert expected.count(tokenizer.bos_id or -1) == 1


def test_results_of_tools_are_rendered_as_observations(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    template = TEMPLATES["chatglm3"]
    turns = (Message("user", "a"), Message("assistant", "b"), Message("observation", "c"))
    conversation = Unranked(system=None, tools="", prompt=turns, responses=(Message("assistant", "d"),))
    tokens = tokenize_responses(conversation, template, tokenizer)
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant", "tool", "assistant"), "abcd", strict=True)
    ]
    got = rendered(theirs, jinja_of(template, tokenizer), messages)
    assert got == [*tokens.prompt_ids, *tokens.response_ids[0]]


@pytest.mark.parametrize(
    ("name", "messages", "options", "reason"),
    [
        ("llama3", [{"role": "user", "content": "a"}] * 2, {}, "turns must alternate"),
        (
            "gemma2",
            [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
            {},
            "system message",
        ),
        ("llama3", [{"role": "user", "content": "a"}], {"tools": [{"name": "f"}]}, "no form for tools"),
    ],
)
def test_what_it_has_no_form_for_is_refused(
    name: str,
    messages: list[dict[str, str]],
    options: dict[str, object],
    reason: str,
    tokenizer: Tokenizer,
    theirs: PreTrainedTokenizerFast,
) -> None:
    jinja = jinja_of(TEMPLATES[name], tokenizer)
    with pytest.raises(Exception, match=reason):
        theirs.apply_chat_template(messages, chat_template=jinja, tokenize=False, **options)


def test_spaces_are_written_where_slots_begin_and_not_at_the_start(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    template = Template(name="t", prefix=(BOS,), user=("Q: {content} A:",))
    texts = [
        theirs.apply_chat_template(
            messages, chat_template=jinja_of(template, tokenizer, spaces), tokenize=False
        )
        for spaces in SPACES
    ]
    assert texts == ["<s>Q: q A:a</s>", "<s>Q: q A: a</s>", "<s> Q: q A: a</s>"]


def test_quotes_backslashes_and_braces_of_a_template_stay_as_they_are(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    template = Template(name="odd", user=("it's \\n {{ x }} {% if %}\n\t{content} \"", Token("[INST]")))
    text = theirs.apply_chat_template(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
        chat_template=jinja_of(template, tokenizer),
        tokenize=False,
    )
    assert text == "it's \\n {{ x }} {% if %}\n\tq \"[INST]a</s>"


def test_thinking_of_a_tokenizers_own_template_is_fixed(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    template = Template(name="hf", user=(), chat_template="{{ enable_thinking }}", thinking=False)
    jinja = jinja_of(template, tokenizer)
    assert theirs.apply_chat_template([{}], chat_template=jinja, tokenize=False) == "False"


def test_an_observation_that_begins_a_prompt_has_the_system_text_inside_and_its_own_form(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast
) -> None:
    turn = "<|{}|>{{content}}<|assistant|>"
    template = Template(
        name="mine",
        user=(turn.format("user"),),
        observation=(turn.format("observation"),),
        system=("{content}; ",),
        system_in_user=True,
    )
    prompt = (Message("observation", "12 C"),)
    conversation = Unranked(system="s", tools="", prompt=prompt, responses=(Message("assistant", "cold"),))
    ids = tokenize_responses(conversation, template, tokenizer)
    written = theirs("<|observation|>s; 12 C<|assistant|>", add_special_tokens=False)["input_ids"]
    assert list(ids.prompt_ids) == written
    system, _, answer = messages_of(conversation)
    messages = [system, {"role": "tool", "content": "12 C"}, answer]
    both = list(ids.prompt_ids + ids.response_ids[0])
    assert rendered(theirs, jinja_of(template, tokenizer), messages) == both
