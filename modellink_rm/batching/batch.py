"""A micro-batch: one flat packed sequence, without padding between its segments."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from modellink_rm.batching.answers import AnswerTokens, answer_tokens
from modellink_rm.batching.targets import Targets, targets_of
from modellink_rm.dataset.example import Example, Response, RowName


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of tokens that attends causally to itself, and to all of its prefix.

    Attributes:
        start: first token.
        end: one past the last token.
        prefix: (start, end) of earlier tokens that it also sees, or None.
        example: index of its example in the batch; -1 for padding.
        num_responses: responses of that example that these tokens belong to; 0 for padding.
    """

    start: int
    end: int
    prefix: tuple[int, int] | None = None
    example: int = field(default=-1, compare=False)
    num_responses: int = field(default=0, compare=False)

    @property
    def prefix_length(self) -> int:
        """Tokens of the prefix; 0 without a prefix."""
        return self.prefix[1] - self.prefix[0] if self.prefix is not None else 0


@dataclass(frozen=True)
class Batch:
    """The concatenated examples of a micro-batch; t tokens, r scores.

    If all responses of an example have the same prompt, it is stored as [prompt | response | response ...],
    and the positions of each response continue those of the prompt; other examples are stored as
    [prompt response | prompt response ...]. Equal responses of an example are stored once, so that their
    scores are exactly equal.

    Under context parallelism a process holds some ranges of the sequence: its tensors have t/cp elements;
    segments, scored positions and targets are always those of the whole sequence.

    Attributes:
        input_ids: int64 [t].
        position_ids: int64 [t], position of each token in its own prompt + response.
        segments: in order, covering all t tokens.
        ranges: (start, end) of the tokens that the tensors hold, in order.
        scored_positions: where each of the r scores is read, example by example, best first: at the last
            token of a response, or of each of its steps; for a language model, of each predicted token of
            `answers` at the one before it.
        targets: what the objective compares the scores with, in their order.
        names: of each example, for messages.
        num_tokens: tokens of the examples, counting a prompt once per response.
        num_padding: tokens added at the end, in a segment of their own, so that t is divisible.
        num_truncated: number of truncated examples.
        head_factors: float32 [r, h], what dropout multiplies the hidden state of each response with before
            the head; None without dropout.
        answers: what a language model predicts at the scored positions; None for a reward model.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[Segment, ...]
    ranges: tuple[tuple[int, int], ...]
    scored_positions: tuple[int, ...]
    targets: Targets
    names: tuple[RowName, ...]
    num_tokens: int
    num_padding: int
    num_truncated: int
    head_factors: Tensor | None = None
    answers: AnswerTokens | None = None

    @property
    def num_examples(self) -> int:
        """The number by which the loss divides."""
        return len(self.names)

    @property
    def num_computed_tokens(self) -> int:
        """Tokens that the model computes, counting a shared prompt once and padding not at all."""
        return self.segments[-1].end - self.num_padding

    def share(self, *, rank: int, size: int) -> "Batch":
        """The share of a whole batch that a context-parallel rank holds."""
        if size == 1:
            return self
        ranges = zigzag_ranges(self.segments[-1].end, rank=rank, size=size)

        def held(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[start:end] for start, end in ranges])

        return dataclasses.replace(
            self, input_ids=held(self.input_ids), position_ids=held(self.position_ids), ranges=ranges
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on `device`."""
        return self.with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with `change` applied to every tensor, including those of its targets."""
        return dataclasses.replace(
            self,
            input_ids=change(self.input_ids),
            position_ids=change(self.position_ids),
            targets=self.targets.with_tensors(change),
            head_factors=None if self.head_factors is None else change(self.head_factors),
            answers=None if self.answers is None else self.answers.with_tensors(change),
        )


def pack_examples(
    examples: Sequence[Example],
    *,
    divisible_by: int = 1,
    share_prefixes: bool = True,
    step_weight: float = 1.0,
    predicts_answers: bool = False,
) -> Batch:
    """Pack the examples into one flat micro-batch.

    Args:
        examples: empty for a padding-only micro-batch of a few tokens.
        divisible_by: padding at the end makes t a multiple of this, because sequence and context
            parallelism divide tokens over processes.
        share_prefixes: store the prompt of an example once if all its responses share it.
        step_weight: see `Targets`.
        predicts_answers: score every token of the answers, as a language model predicts it, not the last one.
    """
    builder = _BatchBuilder()
    for example in examples:
        if share_prefixes and has_one_prompt(example):
            builder.add_shared(example)
        else:
            builder.add_apart(example)
    num_padding = -builder.end % divisible_by if examples else divisible_by
    if num_padding:
        builder.add_segment(np.zeros(num_padding, dtype=np.int32), first_position=0)
    scored_positions, answers = tuple(builder.scored_positions), None
    if predicts_answers:
        responses = [response for example in examples for response in example.responses]
        scored_positions, answers = answer_tokens(responses, builder.last_positions, builder.prompt_ends)
    return Batch(
        input_ids=_concatenated(builder.input_ids),
        position_ids=_concatenated(builder.position_ids),
        segments=tuple(builder.segments),
        ranges=((0, builder.end),),
        scored_positions=scored_positions,
        targets=targets_of(examples, step_weight=step_weight),
        names=tuple(example.name for example in examples),
        num_tokens=sum(len(response.input_ids) for example in examples for response in example.responses),
        num_padding=num_padding,
        num_truncated=sum(example.is_truncated for example in examples),
        answers=answers,
    )


def has_one_prompt(example: Example) -> bool:
    """Whether all responses have the same prompt, of at least one token.

    Data written by other tools may have two prompts in a pair.
    """
    first, *others = (prompt_ids(response) for response in example.responses)
    return len(first) > 0 and all(np.array_equal(first, other) for other in others)


def prompt_ids(response: Response) -> np.ndarray:
    """Ids of the response's prompt, int32."""
    return response.input_ids[: response.num_prompt_tokens]


def zigzag_ranges(num_tokens: int, *, rank: int, size: int) -> tuple[tuple[int, int], ...]:
    """Ranges of the sequence that a context-parallel rank holds.

    Of 2 * size equal slices it holds slices `rank` and 2 * size - 1 - rank, so that causal attention
    costs each rank about the same (the zigzag division of Megatron-LM and ring attention).

    Args:
        num_tokens: a multiple of 2 * size.
    """
    length, rest = divmod(num_tokens, 2 * size)
    assert rest == 0, f"{num_tokens} tokens cannot be divided into {2 * size} slices"
    return tuple((index * length, (index + 1) * length) for index in (rank, 2 * size - 1 - rank))


class _BatchBuilder:
    """The parts of a batch while examples are added to it."""

    def __init__(self) -> None:
        self.input_ids: list[np.ndarray] = []
        self.position_ids: list[np.ndarray] = []
        self.segments: list[Segment] = []
        self.scored_positions: list[int] = []
        self.last_positions: list[int] = []  # of each response its last token
        self.prompt_ends: list[int] = []  # and the last one of its prompt, -1 for none
        self.end = 0
        self.num_examples = 0

    def add_segment(
        self,
        ids: np.ndarray,
        *,
        first_position: int,
        prefix: tuple[int, int] | None = None,
        example: int = -1,
        num_responses: int = 0,
    ) -> None:
        """Append one segment of at least one token."""
        self.input_ids.append(ids)
        self.position_ids.append(np.arange(first_position, first_position + len(ids)))
        self.segments.append(Segment(self.end, self.end + len(ids), prefix, example, num_responses))
        self.end += len(ids)

    def add_apart(self, example: Example) -> None:
        """Append each response with its own copy of the prompt."""
        starts: dict[bytes, int] = {}
        keys = [response.input_ids.tobytes() for response in example.responses]
        for response, key in zip(example.responses, keys, strict=True):
            if key not in starts:
                starts[key] = self.end
                self.add_segment(
                    response.input_ids,
                    first_position=0,
                    example=self.num_examples,
                    num_responses=keys.count(key),
                )
            self.scored_positions += [starts[key] + token for token in response.scored_tokens]
            self.last_positions.append(starts[key] + len(response.input_ids) - 1)
            number = response.num_prompt_tokens
            self.prompt_ends.append(starts[key] + number - 1 if number else -1)
        self.num_examples += 1

    def add_shared(self, example: Example) -> None:
        """Append the prompt once, then the responses."""
        prompt = prompt_ids(example.responses[0])
        prefix = (self.end, self.end + len(prompt))
        self.add_segment(
            prompt, first_position=0, example=self.num_examples, num_responses=len(example.responses)
        )
        starts: dict[bytes, int] = {b"": prefix[0]}  # where its whole sequence would start
        answers = [response.input_ids[len(prompt) :] for response in example.responses]
        keys = [answer.tobytes() for answer in answers]
        for response, answer, key in zip(example.responses, answers, keys, strict=True):
            if key not in starts:
                starts[key] = self.end - len(prompt)
                self.add_segment(
                    answer,
                    first_position=len(prompt),
                    prefix=prefix,
                    example=self.num_examples,
                    num_responses=keys.count(key),
                )
            self.scored_positions += [
                (prefix[0] if token < len(prompt) else starts[key]) + token
                for token in response.scored_tokens
            ]
            self.last_positions.append(starts[key] + len(response.input_ids) - 1)
            self.prompt_ends.append(prefix[1] - 1)
        self.num_examples += 1


def _concatenated(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
