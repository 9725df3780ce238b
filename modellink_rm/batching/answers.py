"""The tokens of a batch's answers, and the positions at which a language model predicts them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modellink_rm.dataset.example import Response


@dataclass(frozen=True, kw_only=True)
class AnswerTokens:
    """The n predicted tokens of a batch, answer by answer; equal answers of an example are there once.

    Each has an entry of the batch's `scored_positions`, that of the token before it: of the first token of an
    answer the last one of its prompt, which all answers to a shared prompt have in common.

    Attributes:
        token_ids: int64 [n].
        answers: int64 [n], the number of each token's answer among the different ones.
        num_answers: different answers.
        slots: int64 [r], for each response of the batch the number of its answer.
    """

    token_ids: Tensor
    answers: Tensor
    num_answers: int
    slots: Tensor

    def with_tensors(self, change: Callable[[Tensor], Tensor]) -> "AnswerTokens":
        """The same tokens with `change` applied to every tensor."""
        return AnswerTokens(
            token_ids=change(self.token_ids),
            answers=change(self.answers),
            num_answers=self.num_answers,
            slots=change(self.slots),
        )


def predicted_ids(response: Response) -> NDArray[np.int32]:
    """The tokens of an answer that a token stands before: all of them, but the first without a prompt."""
    return response.input_ids[max(response.num_prompt_tokens, 1) :]


def answer_tokens(
    responses: Sequence[Response], last_positions: Sequence[int], prompt_ends: Sequence[int]
) -> tuple[tuple[int, ...], AnswerTokens]:
    """The positions that predict the tokens of all answers, and these tokens.

    Args:
        responses: of the whole batch, in order.
        last_positions: of each response its last token; of equal answers to a prompt the same.
        prompt_ends: of each response the last token of its prompt; -1 without a prompt.
    """
    # The last token of an answer and its length -> its number: data of other tools may divide equal sequences
    # into prompt and answer at other places.
    numbers: dict[tuple[int, int], int] = {}
    positions: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    ids: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    slots = []
    for response, last, prompt_end in zip(responses, last_positions, prompt_ends, strict=True):
        predicted = predicted_ids(response)
        slots.append(numbers.setdefault((last, len(predicted)), len(numbers)))
        if slots[-1] < len(ids) - 1:
            continue  # an equal answer was there before
        before = np.arange(last - len(predicted), last)
        if len(before) and prompt_end >= 0:
            before[0] = prompt_end
        positions.append(before)
        ids.append(predicted)
    lengths = torch.tensor([len(one) for one in ids[1:]], dtype=torch.int64)
    tokens = AnswerTokens(
        token_ids=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        answers=torch.repeat_interleave(lengths),
        num_answers=len(numbers),
        slots=torch.tensor(slots, dtype=torch.int64),
    )
    return tuple(np.concatenate(positions).tolist()), tokens
