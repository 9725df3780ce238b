"""Sequences that begin alike as one example each, so that what they share is computed once.

Attention is causal: where a common beginning ends and what comes after it changes no score. So it need not be
known which tokens of a rendered text are its prompt.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modellink_rm.dataset.example import Example, Response

Ids = NDArray[np.int32]
Ends = tuple[int, ...] | None  # of the steps of a sequence; None for one that is scored at its end
# A shorter beginning, such as a BOS and a role, is not worth a segment of its own.
_SHORTEST_PREFIX = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that are computed together.

    Attributes:
        members: their places.
        num_shared: tokens with which all of them begin; 0 for a sequence of its own.
        num_tokens: what the model computes for them.
    """

    members: tuple[int, ...]
    num_shared: int
    num_tokens: int

    def example(self, sequences: Sequence[Ids], ends: Sequence[Ends], index: int) -> Example:
        """The group as the model takes it.

        Args:
            ends: of the steps of each sequence.
        """
        return Example(
            index,
            tuple(
                Response(sequences[member], self.num_shared, step_ends=ends[member])
                for member in self.members
            ),
        )


def group_sequences(sequences: Sequence[Ids], *, max_tokens: int, shares: bool) -> list[Group]:
    """The sequences in groups that save the most tokens, by the first member of each.

    Sorted, those that begin alike are neighbours. The neighbours with the longest common beginning are joined
    first, as long as joining saves tokens and the group fits one forward pass.

    Args:
        max_tokens: of a group with several members.
        shares: False for every sequence alone.
    """
    groups = [Group((place,), 0, len(ids)) for place, ids in enumerate(sequences)]
    if not shares or len(groups) < 2:
        return groups
    # Big-endian bytes sort as the ids do.
    keys = [ids.astype(">i4").tobytes() for ids in sequences]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    common = [_num_common(sequences[one], sequences[other]) for one, other in itertools.pairwise(order)]
    group_of = {place: groups[place] for place in order}
    for index in sorted(range(len(common)), key=lambda index: -common[index]):
        if common[index] < _SHORTEST_PREFIX:
            break
        joined = _joined(group_of[order[index]], group_of[order[index + 1]], common[index], sequences)
        if joined is not None and joined.num_tokens <= max_tokens:
            group_of |= dict.fromkeys(joined.members, joined)
    return sorted(set(group_of.values()), key=lambda group: min(group.members))


def _joined(one: Group, other: Group, num_shared: int, sequences: Sequence[Ids]) -> Group | None:
    """Two groups with a common beginning as one; None if they compute fewer tokens apart."""
    members = tuple(sorted(one.members + other.members))
    total = sum(len(sequences[member]) for member in members)
    num_tokens = total - (len(members) - 1) * num_shared
    if num_tokens >= one.num_tokens + other.num_tokens:
        return None
    return Group(members, num_shared, num_tokens)


def _num_common(one: Ids, other: Ids) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length
