"""The head of process reward models, which turns a hidden state into the log-odds that a step is right."""

import torch
from torch import Tensor, nn

NUM_LABELS = 2  # wrong, right


class StepHead(nn.Linear):
    """hidden -> log-odds in float32; equal rows get bitwise equal scores.

    Its rows are the logits of the labels 0 (wrong) and 1 (right), with a bias, as in transformers'
    *ForTokenClassification, which TRL's PRMTrainer trains. A score is their difference: its sigmoid is the
    softmax's probability of the label 1, so that the cross entropy of both logits is the binary one of
    the score, with the same gradient.
    """

    def __init__(self, hidden_size: int, *, device: torch.device) -> None:
        super().__init__(hidden_size, NUM_LABELS, bias=True, device=device, dtype=torch.float32)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores [num_scores], float32, of hidden states rows [num_scores, h]."""
        wrong, right = self.weight
        scores: Tensor = (rows.float() * (right - wrong)).sum(dim=-1)  # see RewardHead
        return scores + (self.bias[1] - self.bias[0])
