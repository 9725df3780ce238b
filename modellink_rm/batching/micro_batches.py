"""A global batch as packed micro-batches of this replica, on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.batching.planner import plan_micro_batches, plan_replicas
from modellink_rm.dataset.example import Example
from modellink_rm.parallel.groups import Ranks


@dataclass(frozen=True)
class BatchLayout:
    """How micro-batches are laid out, and where.

    Attributes:
        max_tokens: tokens that a micro-batch may compute; a longer example goes alone.
        divisible_by: what the length of a micro-batch must be a multiple of.
        share_prefixes: lay a prompt that all responses of an example have out once.
        multiple_of: what the number of micro-batches must be a multiple of.
    """

    max_tokens: int
    divisible_by: int
    share_prefixes: bool
    device: torch.device
    multiple_of: int = 1


def micro_batches_of(
    examples: Sequence[Example], layout: BatchLayout, ranks: Ranks
) -> tuple[int, Iterator[Batch]]:
    """(number of micro-batches, the micro-batches made as they are taken) of this replica.

    Every process plans the whole global batch alike; the number is 0 only where there are fewer
    examples than replicas.
    """
    share = plan_replicas(examples, ranks.dp_size, share_prefixes=layout.share_prefixes)[ranks.dp_rank]
    groups = plan_micro_batches(
        examples,
        share,
        layout.max_tokens,
        share_prefixes=layout.share_prefixes,
        multiple_of=layout.multiple_of,
    )
    batches = (
        pack_examples(
            [examples[position] for position in group],
            divisible_by=layout.divisible_by,
            share_prefixes=layout.share_prefixes,
        )
        .part(rank=ranks.cp_rank, size=ranks.cp_size)
        .to(layout.device)
        for group in groups
    )
    return len(groups), batches
