"""The norm of transformer layers."""

import torch
from torch import Tensor

from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.elementwise import compiled, rms_norm


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm that works under sequence parallelism.

    megatron-core's own wrapper of torch's norms refuses sequence parallelism, where each tensor-parallel
    process applies the weight to its share of the tokens. The weight is flagged, so that the engine sums
    its gradient over these processes.
    """

    def __init__(self, config: RewardModelConfig, hidden_size: int, eps: float) -> None:
        super().__init__()
        device = torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps
        self.norm = compiled(rms_norm) if config.kernels.compiles_elementwise else rms_norm

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normed hidden states, with unchanged shape."""
        return self.norm(hidden_states, self.weight, self.eps)
