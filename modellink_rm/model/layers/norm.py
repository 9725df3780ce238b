"""The norm of transformer layers."""

import torch
from megatron.core.parallel_state import get_tensor_model_parallel_group
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor

from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.divided import DividedVector
from modellink_rm.model.layers.elementwise import (
    compiled,
    offset_rms_norm,
    offset_rms_norm_for_inference,
    rms_norm,
    rms_norm_for_inference,
)


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm that works under sequence parallelism.

    megatron-core's own wrapper of torch's norms refuses sequence parallelism, where each tensor-parallel
    process applies the weight to its share of the tokens. The weight is flagged, so that the engine sums
    its gradient over these processes.
    """

    formula = staticmethod(rms_norm)
    formula_for_inference = staticmethod(rms_norm_for_inference)

    def __init__(self, config: RewardModelConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        device = torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps
        self.norm = compiled(self.formula) if config.kernels.compiles_elementwise else self.formula
        is_plain = config.kernels.cpu_inference and not config.kernels.compiles_elementwise
        self.norm_for_inference = self.formula_for_inference if is_plain else self.norm

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normed hidden states, with unchanged shape."""
        norm = self.norm if torch.is_grad_enabled() else self.norm_for_inference
        return norm(hidden_states, self.weight, self.eps)


class OffsetRMSNorm(RMSNorm):
    """The norm of Gemma, whose weight is stored as its difference from 1."""

    formula = staticmethod(offset_rms_norm)
    formula_for_inference = staticmethod(offset_rms_norm_for_inference)

    def __init__(self, config: RewardModelConfig, hidden_size: int, eps: float) -> None:
        super().__init__(config, hidden_size, eps)
        torch.nn.init.zeros_(self.weight)


class AllHeadsRMSNorm(DividedVector):
    """Root-mean-square norm over the channels of all heads together, of queries or of keys, as in OLMo 2.

    Each tensor-parallel rank holds some heads and their part of the weight; the sum of squares goes over all
    ranks.
    """

    def __init__(self, config: RewardModelConfig, hidden_size: int, eps: float, *, num_heads: int) -> None:
        super().__init__(config, hidden_size * num_heads, value=1.0)
        self.num_channels = hidden_size * num_heads
        self.eps = eps
        self.tp_group = get_tensor_model_parallel_group()

    def forward(self, states: Tensor) -> Tensor:
        """Normed queries or keys [t, 1, heads, head_dim] of this rank's heads."""
        channels = states.float()
        # Every rank's output depends on every rank's squares: summed here, and their gradients in backward.
        squares = channels.square().sum((-1, -2), keepdim=True)
        squares = copy_to_tensor_model_parallel_region(
            reduce_from_tensor_model_parallel_region(squares, group=self.tp_group), group=self.tp_group
        )
        normed = channels * torch.rsqrt(squares / self.num_channels + self.eps)
        return (normed * self.weight.view(states.shape[-2:]).float()).to(states.dtype)
