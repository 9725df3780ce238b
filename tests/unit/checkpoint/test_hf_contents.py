"""config.json of a written directory."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from modellink_rm.checkpoint.hf.contents import Contents
from modellink_rm.checkpoint.hf.form import OPENRLHF, TRANSFORMERS
from modellink_rm.checkpoint.hf.write import _write_small_files
from modellink_rm.checkpoint.layout import read_checkpoint_info
from modellink_rm.metrics.normalization import Normalization

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"


def written(base: dict[str, Any], **options: Any) -> dict[str, Any]:
    contents = Contents(base_config={"model_type": "llama", **base}, dtype=torch.float32, **options)
    return contents.config(read_checkpoint_info(CHECKPOINT).run.spec)


def test_measured_normalization_takes_the_place_of_the_base_models() -> None:
    base, measured = {"mean": 0.5, "std": 2.0}, Normalization(mean=-1.0, std=3.0)
    for options, expected in (
        ({"form": OPENRLHF}, (0.5, 2.0)),
        ({"form": OPENRLHF, "normalization": measured}, (-1.0, 3.0)),
        ({"form": TRANSFORMERS, "normalization": measured}, (0.5, 2.0)),  # where it means nothing
    ):
        config = written(base, **options)
        assert (config["mean"], config["std"]) == expected
    config = written({}, form=OPENRLHF)
    assert (config["mean"], config["std"], config["value_head_prefix"]) == (0.0, 1.0, "score")


def test_a_small_file_that_there_is_no_room_for_is_named(tmp_path: Path) -> None:
    """It was told as standard output's."""
    contents = Contents(base_config={}, dtype=torch.float32, files={"tokenizer.model": b"x" * 10_000})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            _write_small_files(tmp_path, [], [], contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert raised.value.filename == str(tmp_path / "tokenizer.model")
    assert list(tmp_path.iterdir()) == []
