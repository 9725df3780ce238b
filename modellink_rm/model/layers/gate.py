"""The activation of the MLP."""

from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.elementwise import compiled, swiglu


class SwiGLU(MegatronModule):
    """The MLP's gate; [..., 2f] -> [..., f]."""

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__(config)
        self.gate = compiled(swiglu) if config.kernels.compiles_elementwise else swiglu

    def forward(self, gate_and_up: Tensor) -> Tensor:
        """silu(gate) * up."""
        return self.gate(gate_and_up)
