"""A row of a data set as the model reads it: a prompt with its responses, in token ids."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IGNORED_LABEL = -100  # label of tokens that do not count in a loss: those of the prompt


class RowName(NamedTuple):
    """The name of an example in messages; names are ordered by data set, then by row.

    Attributes:
        dataset: prefix of the data set's files, "" for an example without a data set.
        row: row in the data set.
    """

    dataset: str
    row: int


@dataclass(frozen=True, slots=True)
class Response:
    """One response with the prompt before it, as the model reads them.

    Attributes:
        input_ids: int32 [num_tokens], prompt tokens then response tokens.
        num_prompt_tokens: number of prompt tokens among them.
        step_ends: of a response in steps, the index of each step's last token, ascending; None of one that is
            scored as a whole.
        step_labels: probability that each of these steps is right, NaN where the data does not say; as many
            as `step_ends`, or none if no step is labelled.
    """

    input_ids: NDArray[np.int32]
    num_prompt_tokens: int
    step_ends: tuple[int, ...] | None = None
    step_labels: tuple[float, ...] = ()

    @property
    def scored_tokens(self) -> tuple[int, ...]:
        """Indices of the tokens at which a score is read."""
        return (len(self.input_ids) - 1,) if self.step_ends is None else self.step_ends


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its responses: the unit that the global batch counts and the loss weighs.

    Attributes:
        index: row in the data set, for messages.
        responses: best first; a pair has (chosen, rejected).
        is_truncated: whether tokens were cut from it.
        ranks: of the responses, from 1 for the best, equal for a tie; empty if none is preferred.
        margins: by how much the best response is preferred to each other one, on the data's own scale; None
            if the data does not say.
        probabilities: that the best response is preferred to each other one; None if the data does not say,
            which means 1.
        ratings: of each response those of the data set's attributes, NaN if not given; empty if it has none.
        source: where the record comes from; "" if the data does not say.
        dataset: prefix of the data set's files, "" for an example without a data set.
        reference: log-probability of each answer by a reference model; () without one.
    """

    index: int
    responses: tuple[Response, ...]
    is_truncated: bool = False
    ranks: tuple[int, ...] = ()
    margins: tuple[float, ...] | None = None
    probabilities: tuple[float, ...] | None = None
    ratings: tuple[tuple[float, ...], ...] = ()
    source: str = ""
    dataset: str = ""
    reference: tuple[float, ...] = ()

    @property
    def num_scores(self) -> int:
        """One for each response, or for each of its steps."""
        return sum(len(response.scored_tokens) for response in self.responses)

    @property
    def num_labelled_steps(self) -> int:
        """Steps with a label."""
        return sum(not math.isnan(label) for one in self.responses for label in one.step_labels)

    @property
    def name(self) -> RowName:
        """Its name in messages."""
        return RowName(self.dataset, self.index)
