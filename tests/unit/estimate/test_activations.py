"""Counted bytes of a layer against those that torch saves for the backward pass."""

from typing import Any

import numpy as np
import pytest
import torch

from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import pack_examples
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.estimate.activations import Operations, bytes_of_layer
from modellink_rm.model.build import build_model
from modellink_rm.model.config import Kernels
from modellink_rm.model.families.registry import shape_from_config
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
from modellink_rm.parallel.groups import process_groups
from tests.distributed import Workers
from tests.marks import full
from tests.parity.family_cases import CASES
from tests.unit.model import small_model
from tests.unit.model.small_model import SMALL, bytes_kept

NUM_TOKENS = 256
SIZES = {"num_key_value_heads": 4, "vocab_size": 320}


def config_of(name: str, num_layers: int) -> dict[str, Any]:
    """A tiny config.json of a family, whose layers are all of one kind."""
    config = CASES[name].tiny_config()
    return {**config, "num_hidden_layers": num_layers, "first_k_dense_replace": 0}


def saved_bytes(config: dict[str, Any], sizes: dict[str, Any], bf16: bool) -> int:
    """Bytes that a forward pass over NUM_TOKENS tokens saves, each storage once, without the weights."""
    shape, parallel = shape_from_config(config), ParallelConfig(**sizes)
    with process_groups(parallel, detect_platform(), seed=1) as ranks:
        (model,) = build_model(
            ModelSpec(shape=shape, padded_vocab_size=320),
            model=ModelConfig(),
            parallel=parallel,
            precision=PrecisionConfig(bf16=bf16),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=True,
        )
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, Any] = {}  # storages, which live so that no address is used twice

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, _unchanged):
            model(a_pair().share(rank=ranks.cp_rank, size=ranks.cp_size))
        return sum(storage.nbytes() for storage in kept.values())


def _unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def a_pair() -> Any:
    prompt = np.arange(128, dtype=np.int32) % 300
    sides = [np.concatenate([prompt, np.full(64, 3 + number, np.int32)]) for number in range(2)]
    return pack_examples([Example(0, tuple(Response(ids, 128) for ids in sides))])


TP2: dict[str, Any] = {"tensor_model_parallel_size": 2}
TP2_SP = {**TP2, "sequence_parallel": True}


@pytest.mark.parametrize(
    ("name", "sizes", "bf16"),
    [
        ("llama-3.1", {}, False),
        full("llama-3.1", {}, True),
        full("qwen2", {}, False),
        full("qwen3", {}, False),
        full("gemma-2", {}, False),
        full("olmo-2", {}, False),
        ("mixtral", {}, False),
        full("deepseek-v2", {}, False),
        ("qwen3", TP2_SP, False),
        full("llama-3.1", TP2, False),
        full("deepseek-v2", TP2_SP, False),
        full("mixtral", TP2_SP, False),
        full("llama-3.1", {"context_parallel_size": 2}, False),
    ],
)
def test_a_layer_keeps_the_bytes_that_are_counted(
    workers: Workers, name: str, sizes: dict[str, Any], bf16: bool
) -> None:
    world_size = sizes.get("tensor_model_parallel_size", 1) * sizes.get("context_parallel_size", 1)
    three, two = (
        workers.run(saved_bytes, world_size, config_of(name, number), sizes, bf16)[0] for number in (3, 2)
    )
    operations = Operations(
        element_bytes=2 if bf16 else 4, has_fused_norms=False, has_fused_gates=False, key_copies=None
    )
    shape = shape_from_config(config_of(name, 3))
    counted = NUM_TOKENS * bytes_of_layer(shape, 1, ParallelConfig(**sizes), operations)
    # Not counted: sums of attention's weights, indices of experts, and norms' sums of squares.
    assert three - two == pytest.approx(counted, rel=0.06)


def test_the_last_layer_keeps_little_more_than_its_input_and_its_keys(workers: Workers) -> None:
    three, two = (workers.run(bytes_kept, 1, {"num_layers": n}, False)[0] for n in (3, 2))
    operations = Operations(element_bytes=4, has_fused_norms=False, has_fused_gates=False, key_copies=None)
    shape = ModelShape(**{**SMALL, "num_layers": 2})
    # Beside them: the parts of its projection's weight, and of a micro-batch positions, ids and angles.
    weight = 4 * 64 * (8 + 2 * 4) * 8
    of_batch = small_model.NUM_TOKENS * (2 * 8 + 2 * 4 * 4)
    expected = small_model.NUM_TOKENS * bytes_of_layer(shape, 1, ParallelConfig(), operations)
    assert 2 * two - three == pytest.approx(expected + weight + of_batch, rel=0.2)
