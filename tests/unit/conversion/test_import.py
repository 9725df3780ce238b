"""What a checkpoint keeps of a directory that is imported."""

import dataclasses
import json
from pathlib import Path

from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.config.export import ImportConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.conversion.import_model import plan_import
from modellink_rm.templates.table import TEMPLATES
from modellink_rm.tokenizers.load import load_tokenizer
from tests.tiny_contract import tiny_contract
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama


def imported(directory: Path) -> tuple[int, str]:
    """The longest sequence and the truncation of the contract that `import` writes."""
    config = ImportConfig(load=str(directory), output=str(directory / "out"), prompt_type="llama2")
    plan = plan_import(config, TokenizerConfig(), ParallelConfig())
    contract = json.loads(plan.info_files[CONTRACT_NAME])
    return contract["seq_length"], contract["truncation"]


def test_an_export_that_is_imported_cuts_as_the_checkpoint_did(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path, kind="score")
    write_tokenizer(tmp_path)
    assert imported(tmp_path) == (512, "right")  # of another program: as long as the model reads
    tokenizer = load_tokenizer(TokenizerConfig(tokenizer_name_or_path=str(tmp_path)))
    contract = tiny_contract(TEMPLATES["llama2"], tokenizer)
    for seq_length, expected in ((48, 48), (4096, 512)):
        written = dataclasses.replace(contract, seq_length=seq_length)
        (tmp_path / CONTRACT_NAME).write_bytes(written.to_json())
        assert imported(tmp_path) == (expected, "keep-ends")
