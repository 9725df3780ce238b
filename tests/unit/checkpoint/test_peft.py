"""Adapters of other programs: what changes numbers and is not supported is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.peft.directory import CONFIG_FILE, PeftDirectory


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("use_rslora", "yes"),
        # peft 0.21, tuners/lora/layer.py: these change the weights of the model, when it is loaded too.
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
    ],
)
def test_a_field_that_changes_numbers_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": True, name: value}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"{CONFIG_FILE}: {name} .* is not supported"):
        PeftDirectory(tmp_path)
