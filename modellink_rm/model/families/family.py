"""What a family of models says of itself."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from modellink_rm.model.shape import ModelShape

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorNames:
    """Names of a family's tensors, without ".weight" and ".bias"; {prefix} and {layer} are filled in.

    Attributes:
        prefix: what a model with a head puts before the names of its body.
        qkv: tensors whose rows, one after the other, are all query heads, all keys, all values.
        gate_up: tensors whose rows, one after the other, are the gate, then the up projection.
        lm_head: the language-model head, which a reward model does not have.
        buffers: ends of names that are computed, not loaded.
    """

    prefix: str
    embedding: str
    input_layernorm: str
    qkv: tuple[str, ...]
    attention_out: str
    pre_mlp_layernorm: str
    gate_up: tuple[str, ...]
    mlp_out: str
    final_layernorm: str
    lm_head: str
    buffers: tuple[str, ...]

    def name(self, template: str, *, layer: int = 0, kind: str = "weight") -> str:
        """The full name of a tensor: "model.layers.3.self_attn.q_proj.bias"."""
        return f"{template.format(prefix=self.prefix, layer=layer)}.{kind}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One model_type of config.json: how its shape is read, and what its tensors are called."""

    name: str
    read_shape: Callable[[Config], ModelShape]
    names: TensorNames
