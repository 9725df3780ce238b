"""The reward head, which turns a hidden state into a score, or into one for each of several attributes."""

import torch
from torch import Tensor, nn


class RewardHead(nn.Linear):
    """hidden -> outputs in float32; equal rows get bitwise equal scores.

    The rounding of a matrix product may depend on a row's position, so that two equal responses would get
    different scores. Each score is computed as a separate sum instead: there are only a few rows.
    """

    def __init__(self, hidden_size: int, *, num_outputs: int = 1, bias: bool, device: torch.device) -> None:
        super().__init__(hidden_size, num_outputs, bias=bias, device=device, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores [num_responses], or of several outputs [num_responses, outputs], float32.

        Args:
            rows: hidden states [num_responses, h].
        """
        if self.out_features == 1:
            scores = (rows.float() * self.weight).sum(dim=-1)
        else:
            scores = (rows.float().unsqueeze(1) * self.weight).sum(dim=-1)
        return scores if self.bias is None else scores + self.bias
