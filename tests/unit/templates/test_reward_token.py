"""--reward-token: a token after every response, at which the score is read, wherever a template goes."""

import dataclasses
import json
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Unranked
from modellink_rm.templates.choice import check_truncation, find_template
from modellink_rm.templates.encode import num_closing_tokens, tokenize_responses
from modellink_rm.templates.files import definition_of, template_of_definition
from modellink_rm.templates.rendered import RenderedTexts
from tests.unit.conftest import load_directory, train_tokenizer_json

SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|reward|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ("intern2", "hf")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reward_token")
    train_tokenizer_json(special=SPECIAL).save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHATML}))
    return directory


def conversation(*answers: str) -> Unranked:
    turns = (Message("user", "hello"), Message("assistant", "the cat"), Message("user", "and?"))
    return Unranked(None, "", turns, tuple(Message("assistant", text) for text in answers))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_final_answer_ends_with_the_token(name: str, directory: Path) -> None:
    tokenizer = load_directory(directory)
    plain, with_token = (find_template(name, tokenizer, reward_token=token) for token in ("", "<|reward|>"))
    index = tokenizer.token_to_id("<|reward|>")
    expected = tokenize_responses(conversation("a", "the <|reward|>"), plain, tokenizer)
    found = tokenize_responses(conversation("a", "the <|reward|>"), with_token, tokenizer)
    assert found.prompt_ids == expected.prompt_ids
    for ours, without in zip(found.response_ids, expected.response_ids, strict=True):
        assert ours.tolist() == [*without.tolist(), index]
        assert ours.tolist().count(index) == 1  # what a text spells stays text
    assert num_closing_tokens(with_token, tokenizer) == num_closing_tokens(plain, tokenizer) + 1


@pytest.mark.parametrize("name", NAMES)
def test_definition_keeps_the_token(name: str, directory: Path) -> None:
    template = find_template(name, load_directory(directory), reward_token="<|reward|>")
    again = template_of_definition(json.loads(json.dumps(definition_of(template))), where="x")
    assert again == template
    assert again.fingerprint == template.fingerprint
    assert again.fingerprint != dataclasses.replace(template, reward_token="").fingerprint
    assert template.eos_rule.endswith(", then <|reward|>")


@pytest.mark.parametrize("name", NAMES)
def test_rendered_texts_end_with_the_token(name: str, directory: Path) -> None:
    tokenizer = load_directory(directory)
    template = find_template(name, tokenizer, reward_token="<|reward|>")
    texts = RenderedTexts(template, tokenizer)
    index = tokenizer.token_to_id("<|reward|>")
    assert texts.closing_ids[-1] == index
    assert texts.ends_as_trained(texts.ids("<|im_start|>user\nq<|im_end|>\n<|reward|>"))
    assert not texts.ends_as_trained(texts.ids("<|im_start|>user\nq<|im_end|>\n"))


def test_token_that_the_tokenizer_lacks_is_refused(directory: Path) -> None:
    with pytest.raises(UserError, match=r"--reward-token <\|score\|>: the tokenizer .* has no such token"):
        find_template("intern2", load_directory(directory), reward_token="<|score|>")


def test_truncation_that_cuts_the_token_off_is_refused(directory: Path) -> None:
    template = find_template("intern2", load_directory(directory), reward_token="<|reward|>")
    with pytest.raises(UserError, match=r"--truncation right cuts off <\|reward\|>.*keep-ends"):
        check_truncation(template, "right")
    check_truncation(template, "keep-ends")
    check_truncation(dataclasses.replace(template, reward_token=""), "right")
    check_truncation(None, "right")
