"""The forward pass before a step whose loss needs the scores of the whole global batch."""

import dataclasses
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from modellink_rm.batching.batch import Batch
from modellink_rm.objective.length_penalty import NUM_MOMENTS, LengthPenalty, length_moments
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.optimizer import synced_params
from modellink_rm.train.sums import sum_over_processes


def with_moments(
    objective: LengthPenalty,
    chunks: Sequence[DistributedDataParallel],
    micro_batches: Sequence[Batch],
    *,
    ranks: Ranks,
    device: torch.device,
) -> LengthPenalty:
    """The objective with the moments of a global batch; a collective over all processes.

    Args:
        micro_batches: of this replica, in host memory; at least one.
    """
    total = torch.zeros(NUM_MOMENTS, dtype=torch.float64, device=device)
    for chunk in chunks:
        chunk.eval()  # routers count, and balance, in the step itself
    with synced_params(chunks):
        on_device = (batch.to(device) for batch in micro_batches)
        for scores, batch in forward_scores(chunks, on_device, num_micro_batches=len(micro_batches)):
            if ranks.reports_scores:
                total += length_moments(scores, batch.targets)
    for chunk in chunks:
        chunk.train()
    return dataclasses.replace(objective, moments=sum_over_processes(total))
