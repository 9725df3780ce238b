"""The MLP of a dense layer."""

import torch
from megatron.core import parallel_state
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor

from modellink_rm.model.config import RewardModelConfig


class DenseMLP(MLP):
    """megatron-core's MLP, which may compute some tokens after the others where it needs no gradients.

    Its inner states are the largest tensors of a forward pass: of 2048 tokens they are several times the
    hidden states. Of 1024 at a time they are half of it, take the same time on a CPU, and give the same bits.
    """

    config: RewardModelConfig

    def __init__(self, config: RewardModelConfig, submodules: MLPSubmodules) -> None:
        super().__init__(
            config,
            submodules,
            ffn_hidden_size=config.ffn_hidden_size,
            tp_group=parallel_state.get_tensor_model_parallel_group(),
        )

    def forward(self, hidden_states: Tensor, padding_mask: None = None) -> tuple[Tensor, None]:
        """The output, with the shape of hidden_states [t, 1, h] or [t/tp, 1, h], and None for the bias."""
        num_rows = self._rows_at_a_time(len(hidden_states))
        if num_rows >= len(hidden_states):
            whole: tuple[Tensor, None] = super().forward(hidden_states)
            return whole
        output = torch.empty_like(hidden_states)
        for start in range(0, len(hidden_states), num_rows):
            rows = slice(start, start + num_rows)
            output[rows] = super().forward(hidden_states[rows])[0]
        return output, None

    def _rows_at_a_time(self, number: int) -> int:
        """Of `number` rows; all where gradients, other processes or a matrix in 4 bits want them at once."""
        wanted, is_divided = self.config.kernels.mlp_rows, self.tp_group.size() > 1
        if wanted is None or is_divided or torch.is_grad_enabled() or self.linear_fc1.quantized is not None:
            return number
        return wanted
