"""The reward head: a hidden state to a score."""

import torch
from torch import Tensor, nn


class RewardHead(nn.Linear):
    """hidden -> 1 in float32, equal rows giving equal scores to the last bit.

    A matrix product may round a row by its place among the others; two equal responses would then
    not tie. Each score is a sum of its own instead: there are only a few rows.
    """

    def __init__(self, hidden_size: int, *, bias: bool, device: torch.device) -> None:
        super().__init__(hidden_size, 1, bias=bias, device=device, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores [num_responses], float32, of hidden states rows [num_responses, h]."""
        scores = (rows.float() * self.weight).sum(dim=-1)
        return scores if self.bias is None else scores + self.bias
