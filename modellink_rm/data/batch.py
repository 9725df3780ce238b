"""A micro-batch: one flat packed sequence, without padding between its segments."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modellink_rm.data.pair import Example


@dataclass(frozen=True)
class Batch:
    """Examples laid out one after the other; t tokens, r responses.

    A segment is a stretch that attends to itself alone: here one response with its prompt.

    Attributes:
        input_ids: int64 [t].
        position_ids: int64 [t], from 0 in every segment.
        segment_ids: int64 [t], which segment a token belongs to.
        example_ids: int64 [t], which of the micro-batch's examples a token belongs to.
        segment_starts: first token of each segment, and t at the end.
        scored_positions: int64 [r], the last token of each response, example after example, the
            best response first.
        example_indices: row in the data set of each example.
        num_tokens: tokens of the examples, counting a prompt once for each response.
        num_padding: tokens added at the end, in a segment of their own, so that t is divisible.
        num_truncated: examples that tokens were cut from.
    """

    input_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    example_ids: Tensor
    segment_starts: tuple[int, ...]
    scored_positions: Tensor
    example_indices: tuple[int, ...]
    num_tokens: int
    num_padding: int
    num_truncated: int

    @property
    def num_examples(self) -> int:
        """What the loss divides by."""
        return len(self.example_indices)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return dataclasses.replace(self, **moved)


def pack_examples(examples: Sequence[Example], *, divisible_by: int = 1) -> Batch:
    """One flat batch of the examples.

    Args:
        examples: at least one.
        divisible_by: t is made a multiple of this (the tensor-parallel size under sequence
            parallelism, which divides tokens over processes) by padding at the end.
    """
    segments = [response for example in examples for response in example.responses]
    owners = [number for number, example in enumerate(examples) for _ in example.responses]
    lengths = [len(segment.input_ids) for segment in segments]
    num_tokens = sum(lengths)
    num_padding = -num_tokens % divisible_by
    ends = np.cumsum(lengths)
    input_ids = np.concatenate([segment.input_ids for segment in segments])
    if num_padding:
        input_ids = np.concatenate([input_ids, np.zeros(num_padding, dtype=input_ids.dtype)])
        lengths = [*lengths, num_padding]
        owners = [*owners, len(examples)]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    total = int(starts[-1])
    position_ids = np.arange(total) - np.repeat(starts[:-1], lengths)
    return Batch(
        input_ids=torch.from_numpy(input_ids.astype(np.int64)),
        position_ids=torch.from_numpy(position_ids.astype(np.int64)),
        segment_ids=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths)),
        example_ids=torch.from_numpy(np.repeat(np.asarray(owners), lengths)),
        segment_starts=tuple(int(start) for start in starts),
        scored_positions=torch.from_numpy((ends - 1).astype(np.int64)),
        example_indices=tuple(example.index for example in examples),
        num_tokens=num_tokens,
        num_padding=num_padding,
        num_truncated=sum(example.is_truncated for example in examples),
    )
