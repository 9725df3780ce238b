"""Flags that need each other, exclude each other, or have no such value: refused before anything is read."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.export import ExportConfig
from modellink_rm.config.generate import PolicyConfig
from modellink_rm.config.merge import MergeConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.score import ScorerConfig
from modellink_rm.config.tokenizer import TokenizerConfig

estimate = partial(EstimateConfig, gpus="8x80G")
export = partial(ExportConfig, load="run", output="hf")
merge = partial(MergeConfig, output_prefix="pairs", merge_group_keys=("packed",), input="parts")


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CheckpointConfig, {"auto_resume": True}, "--auto-resume needs --save"),
        (CheckpointConfig, {"keep_last": 2}, "--keep-last needs --save"),
        (estimate, {"seq_length": 64, "mean_length": 65}, "--mean-length 65 is above --seq-length 64"),
        (export, {"max_shard_size": "5 apples"}, "--max-shard-size must be a size such as 5GB or 500MB"),
        (export, {"max_shard_size": "0.1B"}, "--max-shard-size must be at least 1"),
        (partial(PolicyConfig, load="hf"), {"map_keys": "{}"}, "--map-keys needs --handler-name"),
        (partial(ScorerConfig, load="run"), {"map_keys": "{}"}, "--map-keys needs --handler-name"),
        (merge, {"rejects": "bad.jsonl"}, "--rejects needs --merge-shards"),
        (
            OptimConfig,
            {"lr_warmup_fraction": 0.1, "lr_warmup_iters": 2},
            "--lr-warmup-fraction and --lr-warmup-iters exclude each other",
        ),
        (
            OptimConfig,
            {"overlap_param_gather": True, "overlap_grad_reduce": True},
            "--overlap-param-gather needs --use-distributed-optimizer",
        ),
        (
            OptimConfig,
            {"overlap_param_gather": True, "use_distributed_optimizer": True},
            "--overlap-param-gather needs --overlap-grad-reduce",
        ),
        (TokenizerConfig, {"tokenizer_type": "Words"}, "--tokenizer-type Words is not supported"),
        (
            TokenizerConfig,
            {"tokenizer_type": "GPTSentencePieceTokenizer"},
            "--tokenizer-type GPTSentencePieceTokenizer needs --tokenizer-model",
        ),
    ],
)
def test_flags_that_contradict_each_other_are_refused(
    config: Callable[..., Any], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config(**flags)
    config()
