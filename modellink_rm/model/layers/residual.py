"""Adding the output of attention or MLP to the residual, after a norm of its own."""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from torch import Tensor

from modellink_rm.model.config import RewardModelConfig


class NormThenAdd(torch.nn.Module):
    """The engine's bias, dropout and addition, with a norm of the output before the addition."""

    def __init__(self, config: RewardModelConfig, norm: type[torch.nn.Module]) -> None:
        super().__init__()
        self.norm = norm(config, hidden_size=config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, is_training: bool, is_fused: bool) -> Callable[..., Tensor]:
        """A function of ((output, bias or None), residual, dropout), as megatron-core's layers call it."""
        add = get_bias_dropout_add(is_training, is_fused)

        def add_normed(
            output_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, dropout: float
        ) -> Any:
            output, bias = output_with_bias
            output = output if bias is None else output + bias
            return add((self.norm(output), None), residual, dropout)

        return add_normed
