"""Targets: what the data says about the responses of a batch, for the objective to compare with scores."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.batching.answers import predicted_ids
from modellink_rm.dataset.example import Example


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of r responses, in the order of their scores: example by example, best first.

    Responses in steps have a score for each step: there r is the number of steps, and only `examples` and
    `step_labels` are of them.

    Attributes:
        num_responses: of each example, on the host.
        examples: int64 [r], number of each score's example in the batch.
        ranks: int64 [r], from 1 for the best response of its example, equal for a tie; 0 if none is
            preferred.
        margins: float32 [r], by how much the best response of its example is preferred to it, 0 for the
            best itself; NaN if the data does not say.
        probabilities: float32 [r], that the best response of its example is preferred to it; 1 if the data
            does not say, and for the best itself.
        ratings: float32 [r, a], of a attributes; NaN if one is not given. a is 0 where the data has none.
        num_tokens: int64 [r], tokens of the response itself, without its prompt.
        better: int64 [c], for every two responses of an example with different ranks the better one's number
            among all r.
        worse: int64 [c], the other one's.
        tied: int64 [2, t], numbers of every two responses of an example with the same rank.
        step_labels: float32 [r], the probability that each step is right; NaN where the data does not say.
        step_weight: the weight of a labelled step in the loss of its example, with which the mean over the
            examples of the global batch is the mean over its labelled steps.
        num_predicted: int64 [r], tokens of its answer that a language model predicts.
        reference: float64 [r], log-probability of its answer by a reference model; NaN without one.
    """

    num_responses: tuple[int, ...]
    examples: Tensor
    ranks: Tensor
    margins: Tensor
    probabilities: Tensor
    ratings: Tensor
    num_tokens: Tensor
    better: Tensor
    worse: Tensor
    tied: Tensor
    step_labels: Tensor
    step_weight: float = 1.0
    num_predicted: Tensor
    reference: Tensor

    @property
    def num_examples(self) -> int:
        """Examples, also those of which no two responses can be compared."""
        return len(self.num_responses)

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Targets":
        """The same targets with `change` applied to every tensor."""
        return Targets(
            num_responses=self.num_responses,
            examples=change(self.examples),
            ranks=change(self.ranks),
            margins=change(self.margins),
            probabilities=change(self.probabilities),
            ratings=change(self.ratings),
            num_tokens=change(self.num_tokens),
            better=change(self.better),
            worse=change(self.worse),
            tied=change(self.tied),
            step_labels=change(self.step_labels),
            step_weight=self.step_weight,
            num_predicted=change(self.num_predicted),
            reference=change(self.reference),
        )

    def mean_by_example(self, values: Tensor, examples: Tensor) -> Tensor:
        """The mean of the values of each example, [num_examples]; 0 for one without any.

        Args:
            values: [k].
            examples: int64 [k], the number of each value's example.
        """
        counts = self.sum_by_example(torch.ones_like(values), examples)
        return self.sum_by_example(values, examples) / counts.clamp(min=1)

    def sum_by_example(self, values: Tensor, examples: Tensor) -> Tensor:
        """The sum of the values of each example, [num_examples]; the arguments are those of the mean."""
        # index_add would add in no fixed order on a GPU.
        return values.new_zeros(self.num_examples).index_put((examples,), values, accumulate=True)


def targets_of(examples: Sequence[Example], *, step_weight: float = 1.0) -> Targets:
    """The targets of a batch of these examples, on the host."""
    better: list[int] = []
    worse: list[int] = []
    tied: tuple[list[int], list[int]] = ([], [])
    first = 0
    for example in examples:
        for one, other in itertools.combinations(range(len(example.ranks)), 2):
            is_tie = example.ranks[one] == example.ranks[other]
            for numbers, number in zip(tied if is_tie else (better, worse), (one, other), strict=True):
                numbers.append(first + number)
        first += len(example.responses)
    num_responses = tuple(len(example.responses) for example in examples)
    return Targets(
        num_responses=num_responses,
        examples=torch.repeat_interleave(
            torch.tensor([one.num_scores for one in examples], dtype=torch.int64)
        ),
        ranks=_joined(map(_ranks, examples), torch.int64),
        margins=_joined(map(_margins, examples), torch.float32),
        probabilities=_joined(map(_probabilities, examples), torch.float32),
        ratings=_ratings(examples, sum(num_responses)),
        num_tokens=_joined(map(_num_tokens, examples), torch.int64),
        better=torch.tensor(better, dtype=torch.int64),
        worse=torch.tensor(worse, dtype=torch.int64),
        tied=torch.tensor(tied, dtype=torch.int64),
        step_labels=_joined(map(_step_labels, examples), torch.float32),
        step_weight=step_weight,
        num_predicted=_joined(map(_num_predicted, examples), torch.int64),
        reference=_joined(map(_reference, examples), torch.float64),
    )


def _joined(parts: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(itertools.chain.from_iterable(parts)), dtype=dtype)


def _ratings(examples: Sequence[Example], num_responses: int) -> Tensor:
    rows = [row for example in examples for row in example.ratings]
    return torch.tensor(rows, dtype=torch.float32).view(num_responses, len(rows[0]) if rows else 0)


def _num_tokens(example: Example) -> Sequence[int]:
    return [len(response.input_ids) - response.num_prompt_tokens for response in example.responses]


def _ranks(example: Example) -> Sequence[int]:
    return example.ranks or [0] * len(example.responses)


def _margins(example: Example) -> Sequence[float]:
    if example.margins is None:
        return [math.nan] * len(example.responses)
    return [0.0, *example.margins]


def _probabilities(example: Example) -> Sequence[float]:
    if example.probabilities is None:
        return [1.0] * len(example.responses)
    return [1.0, *example.probabilities]


def _step_labels(example: Example) -> Sequence[float]:
    return [
        label
        for response in example.responses
        for label in response.step_labels or [math.nan] * len(response.scored_tokens)
    ]


def _num_predicted(example: Example) -> Sequence[int]:
    return [len(predicted_ids(response)) for response in example.responses]


def _reference(example: Example) -> Sequence[float]:
    return example.reference or [math.nan] * len(example.responses)
