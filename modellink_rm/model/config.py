"""megatron-core's configuration of a model, and what our own modules add to it."""

from dataclasses import dataclass

from megatron.core.transformer.transformer_config import TransformerConfig


@dataclass(frozen=True)
class Kernels:
    """The kernels that a run uses.

    Attributes:
        attention: name in ATTENTION_KERNELS.
        compiles_elementwise: whether norm, rotation and gate are compiled.
    """

    attention: str
    compiles_elementwise: bool


@dataclass
class RewardModelConfig(TransformerConfig):
    """The engine's configuration, which reaches every module, with the kernels of ours."""

    kernels: Kernels = Kernels(attention="sdpa", compiles_elementwise=False)
