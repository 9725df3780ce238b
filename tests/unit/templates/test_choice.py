"""A template is found again from what a manifest or a contract keeps of it."""

import json
import shutil
from pathlib import Path

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversation import Message, Pair
from modellink_rm.templates.choice import find_template, kept_template
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.files import definition_of
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer
from tests.unit.conftest import load_directory


@pytest.mark.parametrize("name", TEMPLATES)
def test_definition_gives_the_template_back(name: str) -> None:
    template = TEMPLATES[name]
    again = kept_template(name, definition_of(template), where="here")
    assert again == template
    assert again.fingerprint == template.fingerprint


def test_name_alone_is_of_the_table() -> None:
    assert kept_template("llama2", None, where="here") is TEMPLATES["llama2"]
    with pytest.raises(UserError, match="unknown --prompt-type 'lama2'; did you mean llama2"):
        kept_template("lama2", None, where="here")


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_without_a_name_the_tokenizers_own_chat_template_is_used_and_printed(
    place: str, fast_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(fast_directory, tmp_path, dirs_exist_ok=True)
    if place == "tokenizer_config.json":
        config = json.loads((tmp_path / place).read_text()) | {"chat_template": CHAT_TEMPLATE}
        (tmp_path / place).write_text(json.dumps(config))
    else:
        (tmp_path / place).write_text(CHAT_TEMPLATE)
    tokenizer = load_directory(tmp_path)
    with caplog.at_level("INFO", logger="modellink_rm"):
        template = find_template(None, tokenizer)
    assert template == find_template("hf", tokenizer)
    assert (template.name, template.chat_template) == ("hf", CHAT_TEMPLATE)
    assert [record.getMessage() for record in caplog.records] == [
        f"--prompt-type hf: the chat template of {tmp_path} is used"
    ]


def test_without_a_name_and_a_chat_template_the_flag_is_required(
    fast_directory: Path, sentencepiece_path: Path
) -> None:
    alone = load_tokenizer(TokenizerConfig(tokenizer_model=str(sentencepiece_path)))
    for tokenizer in (load_directory(fast_directory), alone):
        with pytest.raises(
            UserError, match=r"^--prompt-type is required: the tokenizer .* has no chat templ"
        ):
            find_template(None, tokenizer)
    with pytest.raises(UserError, match="--prompt-type is required: it names a template of --prompt-type-p"):
        find_template(None, alone, path="templates.json")


def test_a_sentencepiece_directory_is_rendered_with_sentencepieces_own_ids(control_directory: Path) -> None:
    tokenizer = load_directory(control_directory)
    (control_directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    try:
        template = find_template(None, tokenizer)
    finally:
        (control_directory / "chat_template.jinja").unlink()
    pair = Pair(
        None, "", (Message("user", "What </s>?"),), Message("assistant", "a"), Message("assistant", "b")
    )
    tokens = tokenize_responses(pair, template, tokenizer)
    start, end = tokenizer.token_to_id("<|im_start|>"), tokenizer.token_to_id("<|im_end|>")
    asked = [*tokenizer.encode("user\nWhat </s>?"), end, start, *tokenizer.encode("assistant\n")]
    assert tokens.prompt_ids.tolist() == [start, *asked]
    assert [start, *tokenizer.encode("assistant\na"), end] == [
        *tokens.prompt_ids[asked.index(start) + 1 :],
        *tokens.response_ids[0],
    ]
