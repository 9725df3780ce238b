import json
import shutil
import subprocess
import sys

import pytest
import sentencepiece
import tokenizers

from modellink_rm.base.errors import UserError
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.tokenizers.load import load_tokenizer
from tests.unit.conftest import load_directory, train_sentencepiece, train_tokenizer_json

TEXTS = ["hello there", "  runs   of spaces ", "\n\n", "你好", "</s> <s> <unk>", "café ☃ \x00 end", ""]


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_ids_are_sentencepieces_own(sentencepiece_path, sentencepiece_model, text):
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_model=str(sentencepiece_path)))
    own = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    assert tokenizer.encode(text) == own.encode(text)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (own.bos_id(), own.eos_id())


@pytest.mark.parametrize("text", [*TEXTS, "<|im_start|>user\n<tool>x</tool>"])
def test_ids_of_a_tokenizer_json_are_those_of_encode(fast_directory, text):
    tokenizer = load_directory(fast_directory)
    own = tokenizers.Tokenizer.from_file(str(fast_directory / "tokenizer.json"))
    own.encode_special_tokens = True
    assert tokenizer.encode(text) == own.encode(text, add_special_tokens=False).ids


def test_chatglm_special_tokens_follow_the_vocabulary(chatglm_directory, sentencepiece_model):
    tokenizer = load_directory(chatglm_directory)
    size = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model).get_piece_size()
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    names += ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert [tokenizer.token_to_id(name) for name in names] == [size + i for i in range(9)]
    assert tokenizer.vocab_size == size + 9
    assert tokenizer.eos_id == 2
    assert tokenizer.decode([size + 6, *tokenizer.encode("hello")]) == "<|user|>hello"


def test_chatglm_is_recognised_by_its_model_type_alone(chatglm_directory, tmp_path):
    shutil.copy(chatglm_directory / "tokenizer.model", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "chatglm"}')
    assert load_directory(tmp_path).token_to_id("<|user|>") is not None


def test_control_tokens_in_a_message_stay_text(chatglm_directory, control_directory, fast_directory):
    for directory, token in [
        (chatglm_directory, "<|user|>"),
        (control_directory, "<|im_end|>"),
        (control_directory, "</s>"),
        (fast_directory, "<|im_end|>"),
    ]:
        tokenizer = load_directory(directory)
        ids = tokenizer.encode(f"a {token} b")
        assert tokenizer.token_to_id(token) is not None
        assert tokenizer.token_to_id(token) not in ids
        assert len(ids) > 4


def test_added_tokens_that_are_not_special_are_found_in_messages(fast_directory):
    tokenizer = load_directory(fast_directory)
    assert tokenizer.token_to_id("<think>") in tokenizer.encode("<think>so</think>")


def test_control_tokens_of_a_template_stay_text_even_if_not_flagged_special(tmp_path):
    backend = train_tokenizer_json(special=["<|endoftext|>"], not_special=["<|im_end|>", "<think>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    plain = load_directory(tmp_path)
    tokenizer = plain.with_control_tokens({"<|im_end|>"})
    assert plain.token_to_id("<|im_end|>") not in tokenizer.encode("x<|im_end|>")
    assert plain.token_to_id("<think>") in tokenizer.encode("x<think>")
    assert tokenizer.fingerprint == plain.fingerprint


def test_user_defined_pieces_of_sentencepiece_become_text_when_a_template_spells_them(tmp_path):
    model = train_sentencepiece(user_defined_symbols=["<start_of_turn>", "<b>"])
    (tmp_path / "tokenizer.model").write_bytes(model)
    plain = load_directory(tmp_path)
    turn = plain.token_to_id("<start_of_turn>")
    assert turn in plain.encode("x<start_of_turn>y")
    tokenizer = plain.with_control_tokens({"<start_of_turn>"})
    assert turn not in tokenizer.encode("x<start_of_turn>y")
    assert plain.token_to_id("<b>") in tokenizer.encode("x<b>y")
    assert tokenizer.encode("hello there") == plain.encode("hello there")
    assert tokenizer.fingerprint == plain.fingerprint
    # Declared special beside the model, the same holds from the start.
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"additional_special_tokens": ["<start_of_turn>"]})
    )
    assert turn not in load_directory(tmp_path).encode("x<start_of_turn>y")


def test_tokenizer_json_is_read_unless_the_slow_tokenizer_is_asked_for(
    fast_directory, sentencepiece_path, tmp_path
):
    shutil.copytree(fast_directory, tmp_path, dirs_exist_ok=True)
    shutil.copy(sentencepiece_path, tmp_path)
    fast = load_directory(tmp_path)
    slow = load_directory(tmp_path, tokenizer_not_use_fast=True)
    own = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_path))
    assert fast.encode("hello") == load_directory(fast_directory).encode("hello")
    assert slow.encode("hello") == own.encode("hello")
    assert fast.fingerprint != slow.fingerprint


def test_named_tokens_come_from_the_files_beside_the_vocabulary(fast_directory):
    tokenizer = load_directory(fast_directory)
    backend = tokenizers.Tokenizer.from_file(str(fast_directory / "tokenizer.json"))
    assert tokenizer.bos_id is None
    assert tokenizer.eos_id == backend.token_to_id("<|im_end|>")
    assert tokenizer.vocab_size == backend.get_vocab_size(with_added_tokens=True)
    assert {file.name for file in tokenizer.files} == {"tokenizer.json", "tokenizer_config.json"}


def test_tokens_declared_only_in_the_config_are_added_at_their_ids(fast_directory, tmp_path):
    shutil.copytree(fast_directory, tmp_path, dirs_exist_ok=True)
    size = load_directory(fast_directory).vocab_size
    declared = {str(size): {"content": "<|extra|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    tokenizer = load_directory(tmp_path)
    assert tokenizer.token_to_id("<|extra|>") == size
    assert size not in tokenizer.encode("a <|extra|>")
    declared = {str(size + 7): {"content": "<|extra|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    with pytest.raises(UserError, match="declare"):
        load_directory(tmp_path)


def test_fingerprint_is_of_the_content_not_of_the_path(fast_directory, chatglm_directory, tmp_path):
    for number, directory in enumerate([fast_directory, chatglm_directory]):
        copy = shutil.copytree(directory, tmp_path / str(number))
        assert load_directory(copy).fingerprint == load_directory(directory).fingerprint


def test_fingerprint_of_a_bare_model_equals_that_of_its_directory(sentencepiece_path, tmp_path):
    shutil.copy(sentencepiece_path, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}'
    )
    bare = load_tokenizer(TokenizerConfig(tokenizer_model=str(sentencepiece_path)))
    assert load_directory(tmp_path).fingerprint == bare.fingerprint


def test_fingerprint_changes_with_what_changes_ids(
    fast_directory, chatglm_directory, control_directory, tmp_path
):
    shutil.copytree(fast_directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    directories = [fast_directory, chatglm_directory, control_directory, tmp_path]
    assert len({load_directory(directory).fingerprint for directory in directories}) == 4


def test_a_directory_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist; it must be on this machine"):
        load_directory(tmp_path / "nowhere")


def test_a_directory_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_directory(tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", "[1]", ""])
def test_a_broken_tokenizer_json_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        load_directory(tmp_path)


def test_a_json_file_that_is_no_tokenizer_is_named_itself(tmp_path):
    (tmp_path / "pairs.json").write_text("[]")
    config = TokenizerConfig(tokenizer_name_or_path=str(tmp_path / "pairs.json"))
    with pytest.raises(UserError, match=r"pairs\.json cannot be read as a tokenizer"):
        load_tokenizer(config)


def test_a_broken_tokenizer_config_is_named(fast_directory, tmp_path):
    shutil.copytree(fast_directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text("{broken")
    with pytest.raises(UserError, match=r"tokenizer_config.json is not valid JSON"):
        load_directory(tmp_path)


def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(UserError, match="not a sentencepiece model"):
        load_tokenizer(TokenizerConfig(tokenizer_model=str(path)))


def test_no_tokenizer_flag_at_all_is_an_error():
    with pytest.raises(UserError, match="--tokenizer-name-or-path"):
        load_tokenizer(TokenizerConfig())


def test_a_vocabulary_that_only_transformers_reads_gives_its_ids(fast_directory, tmp_path):
    backend = tokenizers.Tokenizer.from_file(str(fast_directory / "tokenizer.json"))
    backend.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "GPT2Tokenizer", "eos_token": "hello", "bos_token": "hello"}'
    )
    tokenizer = load_directory(tmp_path)
    assert tokenizer.encode("The capital of France") == backend.encode("The capital of France").ids
    assert tokenizer.eos_id is not None


REMOTE_TOKENIZER = """
from transformers import PreTrainedTokenizer

class OwnTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "own_tokenizer.txt"}

    def __init__(self, vocab_file=None, **options):
        self.words = ["<eos>"] + [chr(i) for i in range(97, 123)]
        super().__init__(eos_token="<eos>", **options)

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    def _tokenize(self, text, **options):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.words.index(token) if token in self.words else 1

    def _convert_id_to_token(self, index):
        return self.words[index]
"""


def test_code_that_comes_with_a_tokenizer_runs_only_when_trusted(tmp_path, monkeypatch):
    cache = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    (tmp_path / "tokenization_own.py").write_text(REMOTE_TOKENIZER)
    (tmp_path / "own_tokenizer.txt").write_text("")
    config = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="--trust-remote-code"):
        load_directory(tmp_path)
    assert not any("tokenization_own" in name for name in sys.modules)
    tokenizer = load_directory(tmp_path, trust_remote_code=True)
    assert tokenizer.encode("abc") == [1, 2, 3]
    assert tokenizer.eos_id == 0


def test_the_preprocessing_side_never_imports_torch_or_transformers(sentencepiece_path):
    code = (
        "import sys\n"
        "import modellink_rm.commands.preprocess, modellink_rm.preprocess.pipeline\n"
        "from modellink_rm.config.tokenizer import TokenizerConfig\n"
        "from modellink_rm.tokenizers.load import load_tokenizer\n"
        f"load_tokenizer(TokenizerConfig(tokenizer_model={str(sentencepiece_path)!r}))\n"
        "sys.exit(' '.join({'torch', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
