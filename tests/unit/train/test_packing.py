"""Tokens of a micro-batch on a GPU, by its memory; a CPU has those of its flags."""

from typing import Any

import torch

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.shape import ModelShape
from modellink_rm.train.packing import budget_of_gpu, bytes_per_token, static_bytes, tokens_multiple
from tests.fake_cuda.case import SHAPE

GIB = 2**30
# Llama-3-8B in bfloat16: 32 layers that keep some 100 KB a token with selective recomputation.
STATIC = static_bytes(8_000_000_000, element_size=2, num_shares=8)


def test_bytes_of_a_model_are_those_of_weights_gradients_and_a_share_of_the_state() -> None:
    assert STATIC == 8_000_000_000 * (2 + 4) + 8_000_000_000 * (4 + 4 + 4) // 8
    assert static_bytes(10, element_size=4, num_shares=1) == 10 * (4 + 4 + 4 + 4)


def test_a_gpu_gets_as_many_tokens_as_keep_it_busy_and_fit() -> None:
    of_8b = 33 * 100e3
    assert budget_of_gpu(2048, memory=141 * GIB, static=STATIC, bytes_per_token=of_8b) == 16384
    assert budget_of_gpu(2048, memory=112 * GIB, static=STATIC, bytes_per_token=of_8b) == 8192
    assert budget_of_gpu(2048, memory=80 * GIB, static=STATIC, bytes_per_token=of_8b) == 2048


def test_the_tokens_of_the_longest_pair_are_never_fewer() -> None:
    assert budget_of_gpu(32768, memory=80 * GIB, static=0, bytes_per_token=1e5) == 32768


def test_micro_batches_are_padded_for_a_gpu_alone() -> None:
    parallel = ParallelConfig(tensor_model_parallel_size=2, context_parallel_size=3, sequence_parallel=True)
    assert tokens_multiple(parallel, torch.device("cpu")) == parallel.tokens_divisible_by() == 12
    assert tokens_multiple(parallel, torch.device("cuda")) == 384


def test_a_token_takes_what_all_layers_keep_of_it_and_the_gradients_of_one() -> None:
    shape = ModelShape(**{**SHAPE, "num_layers": 32})
    # Compiled: without the activated gate; and with two copies of every key and value.
    kept = 170_120 - 28_672 + 2048
    assert bytes_per_token(shape, config_of_8b(), compiles=True) == 33 * kept
    recomputing = config_of_8b(recomputes_norms=True, recomputes_gates=True)
    assert bytes_per_token(shape, recomputing, compiles=True) == 33 * (kept - 28_672 - 2 * 8192)
    whole = config_of_8b(recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    assert bytes_per_token(shape, whole, compiles=True) == 32 * 8192 + kept


def config_of_8b(**fields: Any) -> RewardModelConfig:
    return RewardModelConfig(
        num_layers=32,
        hidden_size=4096,
        num_attention_heads=32,
        params_dtype=torch.bfloat16,
        bf16=True,
        **fields,
    )
