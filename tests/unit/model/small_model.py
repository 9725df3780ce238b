"""A small model, and the bytes that it keeps of a micro-batch for its backward pass."""

from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modellink_rm.base.platform import detect_platform
from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
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


def build_small(
    *, parallel: ParallelConfig | None = None, precision: PrecisionConfig | None = None, **fields: Any
) -> Any:
    """A model of SMALL, some fields of its shape apart, in process groups that are there."""
    from modellink_rm.model.build import build_model
    from modellink_rm.model.config import Kernels

    (model,) = build_model(
        ModelSpec(shape=ModelShape(**{**SMALL, **fields}), padded_vocab_size=64),
        model=ModelConfig(),
        parallel=parallel or ParallelConfig(),
        precision=precision or PrecisionConfig(),
        kernels=Kernels(attention="sdpa", compiles_elementwise=False),
        seed=1,
        initialize=True,
    )
    return model


def bytes_kept(fields: dict[str, Any], bf16: bool, recomputes: str | None = None) -> int:
    """Bytes that a model keeps of a micro-batch until its backward pass."""
    from modellink_rm.model.attention.cpu import _triangle
    from modellink_rm.parallel.groups import process_groups

    with process_groups(ParallelConfig(), detect_platform(), seed=1):
        precision = PrecisionConfig(bf16=bf16, recompute_granularity=recomputes)
        model = build_small(precision=precision, **fields)
        alive = _Alive()
        # Masks are parts of one triangle, which is made once for a process.
        alive.bytes.see([*model.parameters(), _triangle(model.config.params_dtype)])
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
