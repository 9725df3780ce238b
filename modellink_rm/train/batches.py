"""Rows of the data set as packed micro-batches on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from modellink_rm.data.batch import Batch, pack_examples
from modellink_rm.data.pair_dataset import PairDataset


@dataclass(frozen=True)
class BatchLayout:
    """How micro-batches are laid out, and where.

    Attributes:
        divisible_by: what the length of a micro-batch must be a multiple of.
        share_prefixes: lay a prompt that all responses of an example have out once.
    """

    divisible_by: int
    share_prefixes: bool
    device: torch.device


def packed_batches(
    dataset: PairDataset, micro_batches: Sequence[Sequence[int]], layout: BatchLayout
) -> Iterator[Batch]:
    """One batch per micro-batch of rows, made as it is asked for."""
    for rows in micro_batches:
        yield pack_examples(
            [dataset[row] for row in rows],
            divisible_by=layout.divisible_by,
            share_prefixes=layout.share_prefixes,
        ).to(layout.device)
