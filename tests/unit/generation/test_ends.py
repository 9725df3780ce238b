"""Which tokens end an answer, for templates and files of different kinds."""

import json
from pathlib import Path

import pytest

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.generation.ends import AnswerEnds, answer_ends
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer


def tokenizer_in(directory: Path) -> Tokenizer:
    return load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory)))


def names(ends: AnswerEnds) -> set[str]:
    special = {index: name for name, index in ends.tokenizer.special_tokens.items()}
    return {special[index] for index in ends.end_ids}


@pytest.mark.parametrize(
    ("prompt_type", "expected"),
    [
        ("llama2", {"</s>"}),
        ("qwen", {"<|im_end|>", "</s>"}),
        ("llama3", {"<|eot_id|>", "</s>"}),
        ("glm4", {"<|user|>", "<|observation|>", "</s>"}),
    ],
)
def test_a_template_ends_answers_with_its_own_tokens(
    prompt_type: str, expected: set[str], control_directory: Path, tmp_path: Path
) -> None:
    ends = answer_ends(TEMPLATES[prompt_type], tokenizer_in(control_directory), tmp_path)
    assert names(ends) >= expected


def test_the_ends_of_generation_config_count_beside_the_chat_template(fast_directory: Path) -> None:
    tokenizer = tokenizer_in(fast_directory)
    own, other = (tokenizer.special_tokens[name] for name in ("<|im_end|>", "<|endoftext|>"))
    template = TEMPLATES["qwen"]
    (fast_directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [other, own]}))
    assert answer_ends(template, tokenizer, fast_directory).end_ids == tuple(sorted((own, other)))
    (fast_directory / "generation_config.json").unlink()
    assert answer_ends(template, tokenizer, fast_directory).end_ids == (own,)


def test_the_text_of_an_answer_stops_at_its_end_and_lacks_what_the_template_writes_there(
    control_directory: Path,
) -> None:
    tokenizer = tokenizer_in(control_directory)
    text = tokenizer.encode("Paris, a large city")
    ends = AnswerEnds(tokenizer=tokenizer, end_ids=(2,), closing_ids=(5, 6))
    assert ends.text_of([*text, 2, 9, 9]) == "Paris, a large city"
    assert ends.text_of([*text, 5, 6, 2]) == "Paris, a large city"
    assert ends.text_of([2]) == ""
    assert ends.text_of([*text, 5, 6]) == tokenizer.decode([*text, 5, 6])  # it was cut, and may go on
    assert ends.num_tokens([*text, 2, 9]) == len(text)
    assert ends.num_tokens(text) == len(text)  # it was cut
    beyond = tokenizer.vocab_size + 3  # a row of the model that pads its vocabulary
    assert ends.text_of([*text, beyond, 2]) == "Paris, a large city"


def test_a_chat_template_ends_answers_with_the_token_that_it_writes(chat_policy: Path) -> None:
    tokenizer = tokenizer_in(chat_policy)
    ends = answer_ends(find_template(None, tokenizer), tokenizer, chat_policy)
    assert names(ends) == {"<|im_end|>", "<|endoftext|>"}
