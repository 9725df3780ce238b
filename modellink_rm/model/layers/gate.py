"""The activation of the MLP."""

import functools
from collections.abc import Callable

from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.elementwise import clamped_swiglu, compiled, geglu, swiglu


class SwiGLU(MegatronModule):
    """The MLP's gate; [..., 2f] -> [..., f]."""

    formula = staticmethod(swiglu)

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__(config)
        self.gate: Callable[[Tensor], Tensor] = self.formula
        if config.kernels.compiles_elementwise:
            self.gate = compiled(self.formula)
        elif config.recomputes_gates:  # what is between its operations; compiled there is nothing
            self.gate = functools.partial(
                checkpoint, self.formula, use_reentrant=False, preserve_rng_state=False
            )

    def forward(self, gate_and_up: Tensor) -> Tensor:
        """The activated gate, times up."""
        return self.gate(gate_and_up)


class GeGLU(SwiGLU):
    """The gate of Gemma's MLP, with gelu."""

    formula = staticmethod(geglu)


class ClampedSwiGLU(SwiGLU):
    """The gate of gpt-oss's experts."""

    formula = staticmethod(clamped_swiglu)
