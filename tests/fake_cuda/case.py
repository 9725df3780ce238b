"""A training step of a Llama shape on a fake GPU, and what it asked of the device."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Llama-3-8B's, with few layers.
SHAPE: dict[str, Any] = {
    "family": "llama",
    "num_layers": 3,
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "norm_epsilon": 1e-5,
    "rotary_base": 5e5,
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
    "add_qkv_bias": False,
}
EXAMPLES_TOKENS = (1024, 512, 512)  # of a prompt and its two responses


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step of one rank.

    Attributes:
        does: "step"; or "scores", of a model that is not trained; or "state", a step and then what is saved.
        shape: fields of the shape that differ from SHAPE; experts as the fields of theirs.
        parallel: flags of parallelism, as fields of the group.
        precision: flags of precision; bf16 unless they say otherwise.
        optim: flags of the optimizer.
        num_examples: pairs of a micro-batch.
    """

    world_size: int = 8
    rank: int = 0
    does: str = "step"
    attention: str = "varlen"
    shape: dict[str, Any] = field(default_factory=dict)
    parallel: dict[str, Any] = field(default_factory=dict)
    precision: dict[str, Any] = field(default_factory=dict)
    optim: dict[str, Any] = field(default_factory=dict)
    num_examples: int = 4
    num_micro_batches: int = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a step asked of the device.

    Attributes:
        result_bytes: of what is saved, or 0.
        static: bytes of weights, gradients and the optimizer's state.
        saved: bytes alive beside those when the first loss is computed, which the backward pass needs; 0 on a
            stage without scores.
        peak: bytes alive at most.
        kernels: in the step, by operation.
        waits: of the host for the device, by line of code.
        strays: tensors that are not on the device, by line of code.
        num_tokens: of a micro-batch, in this rank.
    """

    result_bytes: int
    static: int
    saved: int
    peak: int
    kernels: Counter[str]
    waits: Counter[str]
    strays: Counter[str]
    num_tokens: int
