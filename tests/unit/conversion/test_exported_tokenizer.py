"""The tokenizer that stands beside exported adapters."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from modellink_rm.checkpoint.contract import read_contract
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.conversion.exported_tokenizer import tokenizer_beside_adapters

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def test_its_chat_template_gives_the_ids_of_training(tmp_path: Path) -> None:
    found = tokenizer_beside_adapters(read_checkpoint_info(CHECKPOINT), read_contract(CHECKPOINT))
    for name, content in found.files.items():
        (tmp_path / name).write_bytes(content)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    messages = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sings"}]
    model = SentencePieceProcessor(model_file=str(CHECKPOINT / "tokenizer" / "tokenizer.model"))
    slots = (model.encode(text) for text in ("[INST] the cat [/INST]", "sings"))
    expected = [model.bos_id(), *(index for slot in slots for index in slot), model.eos_id()]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == expected
    # Of other texts, which the card says.
    assert found.caveat is not None
    assert "otherwise than sentencepiece" in found.caveat
