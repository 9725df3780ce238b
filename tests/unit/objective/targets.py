"""Targets of examples that have nothing but ranks and margins, or labelled steps."""

import numpy as np

from modellink_rm.batching.targets import Targets, targets_of
from modellink_rm.dataset.example import Example, Response


def targets(*ranks: tuple[int, ...], margins: tuple[tuple[float, ...] | None, ...] = ()) -> Targets:
    """Targets of one example for each tuple of ranks; `margins` are those of `Example`, by example."""
    response = Response(input_ids=np.ones(1, np.int32), num_prompt_tokens=0)
    return targets_of(
        [
            Example(
                index=number,
                responses=(response,) * len(of_example),
                ranks=of_example,
                margins=margins[number] if margins else None,
            )
            for number, of_example in enumerate(ranks)
        ]
    )


def pairs(number: int, margins: list[float | None] | None = None) -> Targets:
    """Targets of so many pairs."""
    of_pairs = tuple(None if margin is None else (margin,) for margin in margins or [None] * number)
    return targets(*[(1, 2)] * number, margins=of_pairs)


def steps(*labels: tuple[float, ...], weight: float = 1.0) -> Targets:
    """Targets of one response in steps for each tuple of labels."""
    ids = np.ones(9, np.int32)
    return targets_of(
        [
            Example(index, (Response(ids, 1, step_ends=tuple(range(1, len(one) + 1)), step_labels=one),))
            for index, one in enumerate(labels)
        ],
        step_weight=weight,
    )
