"""The objective of reward modelling: scores of a batch of pairs -> loss and metrics."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modellink_rm.batching.batch import Batch
from modellink_rm.model.flops import training_flops
from modellink_rm.model.shape import ModelShape
from modellink_rm.objective.losses import PairLoss, split_pairs
from modellink_rm.objective.metrics import pair_sums


@dataclass(frozen=True)
class PairwiseObjective:
    """A loss over pairs, called as the pipeline's loss function.

    Attributes:
        shape: of the model, where its FLOPs are counted.
        counts_pairs: False on all context-parallel ranks but the first: each holds all scores, and
            the gradient of those at its own tokens, but a pair is one.
    """

    pair_loss: PairLoss
    shape: ModelShape | None = None
    counts_pairs: bool = True

    def __call__(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """(loss summed over pairs, number of pairs, what is kept), for scores [2n] of n pairs.

        What is kept: `sums` [NUM_SUMS] float64, and to name a sample whose loss is not finite,
        `losses` [n] float32 and `indices`, the pairs' rows in the data set.
        """
        chosen, rejected = split_pairs(scores)
        losses = self.pair_loss(chosen, rejected)
        detached = losses.detach()
        flops = training_flops(self.shape, batch) if self.shape is not None else 0
        kept = {
            "sums": pair_sums(detached, chosen.detach(), rejected.detach(), batch, flops=flops),
            "losses": detached,
            "indices": batch.example_indices,
        }
        # A loss that is not finite makes the gradient NaN, so that one check of the gradient norm
        # covers both without another exchange between processes.
        poison = torch.where(torch.isfinite(detached), 1.0, torch.nan)
        num_counted = batch.num_examples if self.counts_pairs else 0
        # Filled on the device: torch.tensor would copy from the host and wait for it.
        count = torch.full((), num_counted, dtype=torch.int, device=scores.device)
        return (losses * poison).sum(), count, kept
