"""Loss and metrics over held-out examples, each read once."""

from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from modellink_rm.batching.micro_batches import Packing, micro_batches_of
from modellink_rm.dataset.blend import Part
from modellink_rm.objective.objective import Objective
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.optimizer import synced_params
from modellink_rm.train.sums import Summary, no_sums, summary_of, sums_of


def evaluate(
    chunks: Sequence[DistributedDataParallel],
    part: Part,
    objective: Objective,
    *,
    batch_size: int,
    packing: Packing,
    ranks: Ranks,
    device: torch.device,
) -> Summary:
    """The summary of the examples of `part`, equal on every process; a collective over all processes.

    Args:
        chunks: the process's stage or virtual stages.
        batch_size: number of examples that are divided over replicas and micro-batches at a time.
    """
    sums = no_sums(objective, device)
    for chunk in chunks:
        chunk.eval()
    with synced_params(chunks):
        for start in range(0, len(part), batch_size):
            examples = [part[index] for index in range(start, min(start + batch_size, len(part)))]
            number, batches = micro_batches_of(examples, packing, ranks)
            if not number:
                continue  # fewer examples than replicas
            on_device = (batch.to(device) for batch in batches)
            for scores, batch in forward_scores(chunks, on_device, num_micro_batches=number):
                if ranks.reports_scores:
                    sums += sums_of(objective(scores, batch.targets), batch)
    for chunk in chunks:
        chunk.train()
    return summary_of(sums.over_processes(), objective)
