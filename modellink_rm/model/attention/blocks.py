"""Pieces as blocks of queries, whose keys are cut into parts of a form that needs no mask.

torch's flash kernel for CPUs knows two forms: each query sees all keys, or the keys up to its own. A shared
prefix, the keys before those of a block, and the moving lower edge of a sliding window are parts of these
forms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modellink_rm.base.ranges import cut_ranges
from modellink_rm.model.attention.pieces import Piece, Ranges, blocks_of

# Queries of a block whose logits are capped: its logits [heads, queries, keys] exist in memory.
_CAPPED_QUERIES = 256


@dataclass(frozen=True, slots=True)
class Part:
    """Some queries and keys of a block.

    Attributes:
        queries: (start, end) among the block's queries.
        keys: (start, end) ranges of the whole sequence.
        order: "all": each query sees all keys; "causal": query i sees the first i + 1 keys; "reversed": the
            same, with queries and keys counted from the last one.
    """

    queries: tuple[int, int]
    keys: Ranges
    order: Literal["all", "causal", "reversed"]


@dataclass(frozen=True, slots=True)
class Block:
    """A range (start, end) of queries, and the parts that make up their keys."""

    queries: tuple[int, int]
    parts: tuple[Part, ...]


def blocks_of_pieces(pieces: Sequence[Piece], *, is_capped: bool) -> tuple[Block, ...]:
    """The pieces as blocks; a block has at most as many queries as its window.

    Args:
        is_capped: whether logits are capped, which bounds the size of a block.
    """
    return tuple(
        _block(block)
        for piece in pieces
        for block in blocks_of(
            piece,
            min(piece.window or piece.num_queries, _CAPPED_QUERIES if is_capped else piece.num_queries),
        )
    )


def _block(piece: Piece) -> Block:
    num_queries, num_keys = piece.num_queries, piece.num_keys
    # The first query sees its whole window, and each later one a key less of the first keys: all of them
    # but the last query still see the last one of these.
    num_left_behind = 0 if piece.window is None else num_keys - piece.window
    first_own = num_keys - num_queries

    def parts() -> Iterator[Part]:
        if num_left_behind:
            keys = tuple(cut_ranges(piece.keys, 0, num_left_behind))
            yield Part((0, num_queries - 1), keys, "reversed")
        if num_left_behind < first_own:
            keys = tuple(cut_ranges(piece.keys, num_left_behind, first_own))
            yield Part((0, num_queries), keys, "all")
        yield Part((0, num_queries), tuple(cut_ranges(piece.keys, first_own, num_keys)), "causal")

    return Block(piece.queries, tuple(parts()))
