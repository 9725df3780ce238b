"""Loss, accuracy and scores over held-out pairs, each pair once."""

import torch
from torch import Tensor

from modellink_rm.batching.micro_batches import BatchLayout, micro_batches_of
from modellink_rm.dataset.pair_dataset import PairDataset
from modellink_rm.objective.losses import PairLoss, split_pairs
from modellink_rm.objective.metrics import NUM_SUMS, PairMetrics, metrics_from_sums, pair_sums
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.optimizer import TrainState, synced_params


def evaluate(
    state: TrainState,
    dataset: PairDataset,
    rows: range,
    *,
    pair_loss: PairLoss,
    batch_size: int,
    layout: BatchLayout,
    ranks: Ranks,
) -> PairMetrics:
    """Metrics over `rows`, equal on every process; a collective over all of them.

    Args:
        batch_size: rows that are divided over replicas and micro-batches at a time.
    """
    sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=layout.device)
    for chunk in state.model:
        chunk.eval()
    with synced_params(state.model):
        for start in range(0, len(rows), batch_size):
            examples = [dataset[row] for row in rows[start : start + batch_size]]
            number, batches = micro_batches_of(examples, layout, ranks)
            if not number:
                continue  # fewer examples than replicas
            for scores, batch in forward_scores(state.model, batches, num_micro_batches=number):
                if ranks.reports_scores:
                    chosen, rejected = split_pairs(scores)
                    sums += pair_sums(pair_loss(chosen, rejected), chosen, rejected, batch)
    for chunk in state.model:
        chunk.train()
    return metrics_from_sums(sum_over_processes(sums))


def sum_over_processes(sums: Tensor) -> Tensor:
    """Sums over every process, those that count nothing holding zeros."""
    total = sums.clone()
    torch.distributed.all_reduce(total)
    return total
