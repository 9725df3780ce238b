"""A tiny language model with a tokenizer, and prompts."""

import json
import random
from pathlib import Path

import pytest

from tests.tiny_data import random_text, write_tokenizer
from tests.tiny_models import write_tiny_llama
from tests.unit.conftest import train_tokenizer_json

NUM_PROMPTS = 13


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights, large enough that its tokens differ, and Llama's tokenizer."""
    directory = tmp_path_factory.mktemp("policy")
    write_tiny_llama(directory, num_hidden_layers=2, initializer_range=0.3)
    return write_tokenizer(directory)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Prompts of different lengths."""
    generator = random.Random(3)
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"id": number, "prompt": random_text(generator, 1, 2 + 3 * (number % 5))}
        for number in range(NUM_PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def chat_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with ChatML as its chat template, whose EOS is another token than the template's end."""
    directory = tmp_path_factory.mktemp("chat_policy")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    train_tokenizer_json(special=special).save(str(directory / "tokenizer.json"))
    config = {
        "eos_token": "<|endoftext|>",
        "chat_template": "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        "{{ message.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
