"""Tiny tokenizers, made once: a sentencepiece model, and directories as models ship them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder

from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.tokenizers.load import load_tokenizer
from modellink_rm.tokenizers.tokenizer import Tokenizer

SENTENCES = [
    "What is the capital of France? The capital of France is Paris, a large city on the Seine.",
    "Write a response that appropriately completes the request. You are a helpful assistant.",
    "Human: hello there, how are you today? Assistant: I am fine, thank you. system user tool model",
    "[INST] <<SYS>> answer briefly <</SYS>> [/INST] ### Instruction: ### Response: User: Round 0 1 2 3",
    "你好，今天天气怎么样？ 问：什么是人工智能？ 答：人工智能是一门科学。 用户",
    "Du bist ein freundlicher und hilfsbereiter KI-Assistent.",
    "The quick brown fox jumps over the lazy dog; numbers 4567890 (and) punctuation - !",
]
# What the templates beside ChatGLM's spell.
CONTROL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<用户>",
    "<AI>",
    "<reserved_106>",
    "<reserved_107>",
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
]


def train_sentencepiece(**options: Any) -> bytes:
    """The content of a tokenizer.model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def train_tokenizer_json(*, special: list[str], not_special: Sequence[str] = ()) -> tokenizers.Tokenizer:
    """A byte-level BPE with added tokens, some of them not flagged special."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(SENTENCES, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(token, special=True) for token in special])
    backend.add_tokens([tokenizers.AddedToken(token, special=False) for token in not_special])
    return backend


def load_directory(directory: Path, **options: Any) -> Tokenizer:
    return load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(directory), **options))


@pytest.fixture(scope="session")
def sentencepiece_model() -> bytes:
    return train_sentencepiece()


@pytest.fixture(scope="session")
def sentencepiece_path(tmp_path_factory: pytest.TempPathFactory, sentencepiece_model: bytes) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    path.write_bytes(sentencepiece_model)
    return path


@pytest.fixture(scope="session")
def chatglm_directory(tmp_path_factory: pytest.TempPathFactory, sentencepiece_model: bytes) -> Path:
    directory = tmp_path_factory.mktemp("chatglm3")
    (directory / "tokenizer.model").write_bytes(sentencepiece_model)
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "ChatGLMTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
            }
        )
    )
    return directory


@pytest.fixture(scope="session")
def control_directory(tmp_path_factory: pytest.TempPathFactory, sentencepiece_model: bytes) -> Path:
    """tokenizer.model with every control token after it, flagged special."""
    directory = tmp_path_factory.mktemp("controls")
    (directory / "tokenizer.model").write_bytes(sentencepiece_model)
    size = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model).get_piece_size()
    added = {str(size + i): {"content": token, "special": True} for i, token in enumerate(CONTROL_TOKENS)}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": added})
    )
    return directory


@pytest.fixture(scope="session")
def fast_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json as Qwen ships it: control tokens special, <think> added but not special."""
    directory = tmp_path_factory.mktemp("fast")
    backend = train_tokenizer_json(
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], not_special=["<think>", "</think>"]
    )
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    )
    return directory
