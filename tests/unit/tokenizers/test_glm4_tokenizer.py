"""GLM-4's tiktoken vocabulary gives tiktoken's ids, without the code that comes with it."""

import base64
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import regex  # type: ignore[import-untyped, unused-ignore]

from modellink_rm.base.errors import UserError
from modellink_rm.conversation import Message, Pair
from modellink_rm.templates.choice import find_template
from modellink_rm.templates.encode import tokenize_responses
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.glm4_tokenizer import SPECIAL_TOKENS, byte_pair_encoding
from modellink_rm.tokenizers.tokenizer import Tokenizer
from tests.unit.conftest import load_directory

# pat_str of tokenization_chatglm.py of glm-4-9b-chat
PIECES = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)
MERGED = [
    b"he",
    b"ll",
    b"hell",
    b"llo",
    b"hello",
    b" h",
    b" hello",
    "你".encode(),
    b"12",
    b"\n\n",
    b"us",
    b"er",
]
RANKS = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *MERGED])}
CHAT_TEMPLATE = (
    "[gMASK]<sop>{% for item in messages %}{% if item['tools'] is defined %}<|system|>\nTools:"
    "{% for tool in item['tools'] %}## {{ tool['function']['name'] }}{% endfor %}{% endif %}"
    "{% if item['content'] %}<|{{ item['role'] }}|>{{ item['metadata'] }}\n{{ item['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def written(directory: Path, ranks: dict[bytes, int]) -> Path:
    lines = [b"%s %d" % (base64.b64encode(token), rank) for token, rank in ranks.items()]
    (directory / "tokenizer.model").write_bytes(b"\n".join(lines) + b"\n")
    code = ["tokenization_chatglm.ChatGLM4Tokenizer", None]
    config: dict[str, Any] = {"auto_map": {"AutoTokenizer": code}}
    config |= {"tokenizer_class": "ChatGLM4Tokenizer", "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "tokenization_chatglm.py").write_text("raise SystemExit('must not run')")
    return directory


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_directory(written(tmp_path_factory.mktemp("glm4"), RANKS))


def tiktoken_ids(text: str, ranks: dict[bytes, int]) -> list[int]:
    """As tiktoken's _byte_pair_merge: joins the pair whose joined bytes have the lowest rank, the first of
    several, until no pair has a rank."""
    ids: list[int] = []
    for piece in regex.findall(PIECES, text):
        data = piece.encode()
        parts = [data] if data in ranks else [data[at : at + 1] for at in range(len(data))]
        while len(parts) > 1:
            joined = [ranks.get(one + other, 1 << 30) for one, other in itertools.pairwise(parts)]
            at = joined.index(min(joined))
            if joined[at] == 1 << 30:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def test_ids_are_those_that_the_ranks_give(glm4: Tokenizer) -> None:
    assert glm4.encode("hello") == [RANKS[b"hello"]]
    assert glm4.encode("hellohello\n你 123\n\n") == [
        *(RANKS[b"hello"], RANKS[b"hello"], RANKS[b"\n"], RANKS["你".encode()], RANKS[b" "]),
        *(RANKS[b"12"], RANKS[b"3"], RANKS[b"\n\n"]),
    ]
    assert glm4.decode(glm4.encode("hellohello 你 123é\n\n")) == "hellohello 你 123é\n\n"


def test_ids_are_those_of_tiktoken_for_any_ranks() -> None:
    """Ranks in another order than training gives them: a token may be out of reach of its merges."""
    choose = random.Random(3)
    letters = "aab bc'sS12 \n\r\té你."
    for _ in range(4):
        texts = ["".join(choose.choices(letters, k=choose.randrange(2, 7))).encode() for _ in range(120)]
        tokens = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *texts]))
        ranks = {token: rank for rank, token in enumerate(tokens)}
        backend = byte_pair_encoding(ranks, PIECES)
        for _ in range(200):
            text = "".join(choose.choices(letters, k=choose.randrange(1, 40)))
            assert backend.encode(text, add_special_tokens=False).ids == tiktoken_ids(text, ranks), text


def test_special_tokens_follow_the_ranks_and_are_text_in_messages(glm4: Tokenizer) -> None:
    assert [glm4.token_to_id(token) for token in SPECIAL_TOKENS] == [
        *range(len(RANKS), len(RANKS) + len(SPECIAL_TOKENS))
    ]
    assert glm4.eos_id == glm4.token_to_id("<|endoftext|>")
    assert glm4.vocab_size == len(RANKS) + 14
    assert glm4.encode("<|user|>") == tiktoken_ids("<|user|>", RANKS)


def test_its_chat_template_has_the_ids_of_build_single_message(glm4: Tokenizer) -> None:
    """tokenization_chatglm.py: the role's token, then metadata and a line break, then the text."""
    turns = (
        Message("user", "hello <|user|>"),
        Message("function_call", '{"name": "f", "arguments": {"x": "你"}}'),
        Message("observation", "12"),
    )
    answer = Message("assistant", "hello")
    pair = Pair("us", '[{"name": "f"}]', turns, answer, answer)
    tokens = tokenize_responses(pair, find_template(None, glm4), glm4)

    def message(role: str, metadata: str, text: str) -> list[int]:
        return [glm4.special_tokens[f"<|{role}|>"], *tiktoken_ids(f"{metadata}\n{text}", RANKS)]

    begin = [glm4.special_tokens["[gMASK]"], glm4.special_tokens["<sop>"]]
    expected = [*begin, *message("system", "", "Tools:## f"), *message("system", "", "us")]
    expected += [*message("user", "", "hello <|user|>"), *message("assistant", "f", '{"x": "你"}')]
    expected += [*message("observation", "", "12"), *message("assistant", "", "hello")]
    assert [*tokens.prompt_ids, *tokens.response_ids[0]] == expected
    assert len(tokens.response_ids[0]) == 2


def test_the_tables_template_ends_an_answer_with_its_eos(glm4: Tokenizer) -> None:
    answer = Message("assistant", "hello")
    pair = Pair(None, "", (Message("user", "us"),), answer, answer)
    tokens = tokenize_responses(pair, TEMPLATES["glm4"], glm4)
    own = tokenize_responses(pair, find_template(None, glm4), glm4)
    assert tokens.prompt_ids == own.prompt_ids
    assert tokens.response_ids[0].tolist() == [*own.response_ids[0], glm4.eos_id]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"aGU= 0\n??? 1\n", r"tokenizer.model:2 is not a token in base64 and its rank"),
        (b"aGU= 0\naGU=\n", r"tokenizer.model:2 is not a token in base64 and its rank"),
        (b"aGU= 0\nbGw= 2\n", "the ranks of its 2 tokens are not 0, 1, 2"),
    ],
)
def test_a_damaged_vocabulary_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    written(tmp_path, RANKS)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_directory(tmp_path)
