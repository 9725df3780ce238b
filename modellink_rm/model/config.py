"""megatron-core's configuration of a model, and what our own modules add to it."""

from dataclasses import dataclass

from megatron.core.transformer.transformer_config import TransformerConfig


@dataclass
class RewardModelConfig(TransformerConfig):
    """The engine's configuration, which reaches every module, with the kernels of ours.

    Attributes:
        attention_kernel: name in ATTENTION_KERNELS.
        compile_elementwise: whether norm, rotation and gate are compiled.
    """

    attention_kernel: str = "sdpa"
    compile_elementwise: bool = False
