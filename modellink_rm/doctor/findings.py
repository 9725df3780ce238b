"""What is wrong with a machine, in plain words, with the remedy."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that stops a run or makes it slow.

    Attributes:
        what: what is wrong, as part of a sentence.
        remedy: what to do.
    """

    what: str
    remedy: str
