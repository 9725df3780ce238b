"""The reward head, which turns a hidden state into a score."""

import torch
from torch import Tensor, nn


class RewardHead(nn.Linear):
    """hidden -> 1 in float32; equal rows get bitwise equal scores.

    The rounding of a matrix product may depend on a row's position, so that two equal responses would get
    different scores. Each score is computed as a separate sum instead: there are only a few rows.
    """

    def __init__(self, hidden_size: int, *, bias: bool, device: torch.device) -> None:
        super().__init__(hidden_size, 1, bias=bias, device=device, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores [num_responses], float32, of hidden states rows [num_responses, h]."""
        scores = (rows.float() * self.weight).sum(dim=-1)
        return scores if self.bias is None else scores + self.bias
