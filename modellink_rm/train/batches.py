"""Rows of the data set as packed micro-batches on the device."""

from collections.abc import Iterator, Sequence

import torch

from modellink_rm.data.batch import Batch, pack_examples
from modellink_rm.data.pair_dataset import PairDataset


def packed_batches(
    dataset: PairDataset, micro_batches: Sequence[Sequence[int]], *, divisible_by: int, device: torch.device
) -> Iterator[Batch]:
    """One batch per micro-batch of rows, made as it is asked for."""
    for rows in micro_batches:
        yield pack_examples([dataset[row] for row in rows], divisible_by=divisible_by).to(device)
