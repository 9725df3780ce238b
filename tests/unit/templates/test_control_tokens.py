"""Control tokens of templates: those that tokenizers have, lack or call by other names."""

import pytest
import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message
from modellink_rm.templates.encode import (
    num_closing_tokens,
)
from modellink_rm.templates.renderer import eos_id_of
from modellink_rm.templates.table import TEMPLATES
from tests.unit.conftest import load_directory, train_tokenizer_json
from tests.unit.templates.forms import IM_END, MULTI_TURN, T
from tests.unit.templates.rendering import encode_prompt, encode_response


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


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
