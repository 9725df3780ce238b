"""The formulas of what layers keep, against what they keep on a CPU; `tests/fake_cuda` has those of a GPU."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.model.activation_bytes import Keeping, kept_per_token, kept_per_token_by_last
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
from tests.distributed import Workers
from tests.fake_cuda.case import SHAPE
from tests.fake_cuda.measure import LiveBytes

SMALL = {
    **SHAPE,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "kv_channels": 8,
    "vocab_size": 64,
}
NUM_TOKENS = 64


class _Alive(TorchDispatchMode):
    """Counts the bytes of what is made on the CPU and lives."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = LiveBytes("cpu")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.bytes.see([leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)])
        return output


def bytes_kept(fields: dict[str, Any], bf16: bool, recomputes: str | None = None) -> int:
    """Bytes that a model keeps of a micro-batch until its backward pass."""
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels
    from modellink_rm.parallel.groups import process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        (model,) = build_model(
            ModelSpec(shape=ModelShape(**{**SMALL, **fields}), padded_vocab_size=64),
            model=ModelConfig(),
            parallel=ParallelConfig(),
            precision=PrecisionConfig(bf16=bf16, recompute_granularity=recomputes),
            kernels=Kernels(attention="sdpa", compiles_elementwise=False),
            seed=1,
            initialize=True,
        )
        alive = _Alive()
        alive.bytes.see(list(model.parameters()))
        before = alive.bytes.now()
        with alive:
            scores = model(batch())
        kept = alive.bytes.now() - before
        assert scores.requires_grad
        return kept


def batch() -> Batch:
    """A pair with a shared prompt."""
    packed = pack_examples([example()])
    assert len(packed.input_ids) == NUM_TOKENS
    return packed


def example() -> Example:
    """A prompt of half the tokens with two responses."""
    ids = [np.repeat(np.array([1, 2 + place], dtype=np.int32), [32, 16]) for place in range(2)]
    return Example(index=0, responses=tuple(Response(input_ids=one, num_prompt_tokens=32) for one in ids))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fields", [{}, {"num_query_groups": 8}, {"kv_channels": 16}])
def test_a_layer_on_a_cpu_keeps_the_bytes_of_the_formula(
    workers: Workers, fields: dict[str, Any], bf16: bool
) -> None:
    shape = ModelShape(**{**SMALL, **fields})
    keeping = Keeping(element_size=2 if bf16 else 4, is_on_gpu=False)
    three, two = (workers.run(bytes_kept, 1, {**fields, "num_layers": n}, bf16)[0] for n in (3, 2))
    assert three - two == pytest.approx(NUM_TOKENS * kept_per_token(shape, keeping), abs=NUM_TOKENS)


def test_the_last_layer_keeps_little_more_than_its_input_and_its_keys(workers: Workers) -> None:
    shape, keeping = ModelShape(**SMALL), Keeping(element_size=4, is_on_gpu=False)
    three, two = (workers.run(bytes_kept, 1, {"num_layers": n}, False)[0] for n in (3, 2))
    # Beside them: the parts of its projection's weight, and of a micro-batch positions, ids and angles.
    weight = 4 * 64 * (8 + 2 * 4) * 8
    of_batch = NUM_TOKENS * (2 * 8 + 2 * 4 * 4)
    expected = NUM_TOKENS * kept_per_token_by_last(shape, keeping) + weight + of_batch
    assert 2 * two - three == pytest.approx(expected, rel=0.2)
