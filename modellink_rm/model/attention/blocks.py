"""Pieces as blocks of queries, whose keys are cut into parts of the forms that torch's CPU kernel knows.

Without a mask each query sees all keys, or the keys up to its own. A shared prefix, the keys before those of
a block, and the moving lower edge of a sliding window are parts of these forms. The kernel is faster the more
queries it gets at a time: responses to one prompt, which lie side by side, see it together.

A short piece is cut the other way. The kernel leaves out hidden keys 512 at a time (torch 2.13,
aten/src/ATen/native/cpu/FlashAttentionKernel.cpp): of a short piece it computes the hidden half too. So few
queries at a time get the keys that the last of them sees, with a small mask for the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modellink_rm.base.ranges import cut_ranges
from modellink_rm.model.attention.pieces import Piece, QueriesAndKeys, blocks_of

# Queries of a block whose logits are capped: its logits [heads, queries, keys] exist in memory.
_CAPPED_QUERIES = 256

# Keys up to which a piece is short, and queries of its blocks: measured, heads of 32 to 128.
SHORT, _SHORT_QUERIES = 768, 128


@dataclass(frozen=True, slots=True)
class Part(QueriesAndKeys):
    """Some queries and keys of a block.

    Attributes:
        queries: (start, end) among the block's queries.
        keys: (start, end) ranges of the whole sequence.
        order: "all": each query sees all keys; "causal": the last query sees all keys, the one before it all
            but the last, and so on; "reversed": the last query sees the last key, the one before it the last
            two, and so on.
    """

    order: Literal["all", "causal", "reversed"]


@dataclass(frozen=True, slots=True)
class Block:
    """A range (start, end) of queries, and the parts that make up their keys; the last has all queries."""

    queries: tuple[int, int]
    parts: tuple[Part, ...]


def blocks_of_pieces(pieces: Sequence[Piece], *, is_capped: bool) -> tuple[Block, ...]:
    """The pieces as blocks; a block has at most as many queries as its window.

    Args:
        is_capped: whether logits are capped, which bounds the size of a block.
    """
    blocks: list[Block] = []
    for family in _families(pieces):
        if len(family) > 1 and not is_capped and not all(map(_is_short, family)):
            blocks += _blocks_of_family(family)
        else:
            blocks += (_block(part) for piece in family for part in _cut(piece, is_capped=is_capped))
    return tuple(blocks)


def _families(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """The pieces in runs that share a prefix, which the first of a run may hold too."""
    family: list[Piece] = []
    for piece in pieces:
        if family and not _belongs(piece, family):
            yield family
            family = []
        family.append(piece)
    if family:
        yield family


def _belongs(piece: Piece, family: Sequence[Piece]) -> bool:
    prefix, first = _prefix(piece), family[0]
    if prefix is None or family[-1].queries[1] != piece.queries[0]:
        return False
    if len(first.keys) > 1:
        return _prefix(first) == prefix
    start, end = first.keys[0]
    is_whole = first.window is None and first.num_queries == first.num_keys
    return is_whole and start == prefix[0] and prefix[1] < end


def _prefix(piece: Piece) -> tuple[int, int] | None:
    """The keys before its own of a piece that sees two ranges, all of the second one its own."""
    if piece.window is not None or len(piece.keys) != 2:
        return None
    prefix, (start, end) = piece.keys
    return prefix if piece.num_queries == end - start else None


def _blocks_of_family(family: Sequence[Piece]) -> Iterator[Block]:
    """The prefix, if it is among the queries, and all that see it."""
    prefix = _prefix(family[-1])
    assert prefix is not None
    start, end = family[0].queries[0], family[-1].queries[1]
    if len(family[0].keys) == 1:
        length = prefix[1] - prefix[0]
        yield Block((start, start + length), (Part((0, length), (prefix,), "causal"),))
        start += length
    own = []
    for piece in family:
        queries = max(piece.queries[0], start) - start, piece.queries[1] - start
        last = piece.keys[-1][1]
        own.append(Part(queries, ((last - (queries[1] - queries[0]), last),), "causal"))
    yield Block((start, end), (*own, Part((0, end - start), (prefix,), "all")))


def _is_short(piece: Piece) -> bool:
    return piece.window is None and piece.num_keys <= SHORT


def _cut(piece: Piece, *, is_capped: bool) -> Iterator[Piece]:
    longest = piece.window or piece.num_queries
    if is_capped:
        longest = min(longest, _CAPPED_QUERIES)
    elif _is_short(piece):
        longest = -(-longest // -(-longest // _SHORT_QUERIES))  # of much the same size
    return blocks_of(piece, longest)


def _block(piece: Piece) -> Block:
    num_queries, num_keys = piece.num_queries, piece.num_keys
    if _is_short(piece) or num_queries == 1:
        return Block(piece.queries, (Part((0, num_queries), piece.keys, "causal"),))
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
