"""What generates: the interface of engines."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Request:
    """One answer to be generated.

    Attributes:
        prompt_ids: int32 ("i").
        stream: numbers that seed its random numbers, such that no other answer of the run has them.
    """

    prompt_ids: "array[int]"
    stream: tuple[int, ...]

    def random_numbers(self, count: int) -> "np.ndarray":
        """The numbers that draw its tokens [count], float64 in [0, 1)."""
        return np.random.default_rng(self.stream).random(count)

    def seed(self) -> int:
        """One number of 63 bits in place of the stream, for engines that draw by themselves."""
        return int(np.random.SeedSequence(self.stream).generate_state(1, np.uint64)[0] >> 1)


class Engine(Protocol):
    """A loaded model.

    Attributes:
        requests_at_once: how many requests make good use of it.
    """

    requests_at_once: int

    def token_ids(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """The new tokens of each request, with or without the one that ended it.

        None where the model's logits are no numbers, as far as the engine can tell.
        """
