"""A tiny model of a family, imported and exported: what export_in_vllm.py and export_in_trl.py open."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from modellink_rm.base.errors import UserError
from tests.parity.family_cases import CASES
from tests.tiny_data import write_tokenizer

# vLLM's attention on a CPU needs heads of 32 channels or more.
_SIZES = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def import_tiny_model(family: str, work: Path) -> Path:
    """The checkpoint of a model with random weights, made in the directory `work`.

    Args:
        family: a name of tests/parity/family_cases.py.

    Raises:
        UserError: there is none of that name.
    """
    if family not in CASES:
        raise UserError(f"--family {family}: choose one of {', '.join(CASES)}")
    case = CASES[family]
    head = {"head_dim": 32} if "head_dim" in case.published_config() else {}
    case = dataclasses.replace(case, changes={**case.changes, **_SIZES, **head})
    model, checkpoint = work / "model", work / "checkpoint"
    case.write(model, case.model().state_dict())
    write_tokenizer(model)
    _run("import", "--load", model, "--output", checkpoint, "--prompt-type", "llama2")
    return checkpoint


def export(checkpoint: Path, directory: Path) -> None:
    """Write a checkpoint as a Hugging Face directory."""
    _run("export", "--load", checkpoint, "--output", directory)


def _run(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "modellink_rm", *map(str, words)], check=True)
