"""The MLP of a dense layer."""

import torch
from megatron.core import parallel_state
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor

from modellink_rm.adapters.linears import own_weight
from modellink_rm.base.megatron_compat import onednn_gate, onednn_product
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.layers.gate import SwiGLU


class DenseMLP(MLP):
    """megatron-core's MLP, which may compute some tokens after the others where it needs no gradients.

    Its inner states are the largest tensors of a forward pass: of 2048 tokens they are several times the
    hidden states. Of 1024 at a time they are half of it, take the same time on a CPU, and give the same bits.
    On a CPU oneDNN's products then have the gate in them, so that it takes no pass over memory of its own.
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
            return self._of_rows(hidden_states), None
        output = torch.empty_like(hidden_states)
        for start in range(0, len(hidden_states), num_rows):
            rows = slice(start, start + num_rows)
            output[rows] = self._of_rows(hidden_states[rows])
        return output, None

    def _of_rows(self, states: Tensor) -> Tensor:
        weights = self._weights_of_products(states)
        if weights is None:
            output: Tensor = super().forward(states)[0]
            return output
        both, out = weights
        return onednn_product(onednn_gate(states, *both.chunk(2)), out)

    def _weights_of_products(self, states: Tensor) -> tuple[Tensor, Tensor] | None:
        """The weights of an MLP that is nothing but two of oneDNN's products and SwiGLU, else None."""
        linears = (self.linear_fc1, self.linear_fc2)
        has_more = any(linear.adapter is not None or linear.bias is not None for linear in linears)
        if has_more or type(self.activation_func) is not SwiGLU or self.tp_group.size() > 1:
            return None
        both, out = (own_weight(linear, states) for linear in linears)
        return (both, out) if isinstance(both, Tensor) and isinstance(out, Tensor) else None

    def _rows_at_a_time(self, number: int) -> int:
        """Of `number` rows; all where gradients, other processes or a matrix in 4 bits want them at once."""
        wanted, is_divided = self.config.kernels.mlp_rows, self.tp_group.size() > 1
        if wanted is None or is_divided or torch.is_grad_enabled() or self.linear_fc1.quantized is not None:
            return number
        return wanted
