"""Pieces: which keys each query of a packed sequence sees, in the form that every kernel takes."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modellink_rm.base.ranges import cut_ranges
from modellink_rm.batching.batch import Segment

Ranges = tuple[tuple[int, int], ...]  # of tokens, (start, end) each


@dataclass(frozen=True, slots=True)
class QueriesAndKeys:
    """A range (start, end) of queries, and ranges of keys."""

    queries: tuple[int, int]
    keys: Ranges

    @property
    def num_queries(self) -> int:
        """At least one."""
        return self.queries[1] - self.queries[0]

    @property
    def num_keys(self) -> int:
        """At least one."""
        return sum(end - start for start, end in self.keys)


@dataclass(frozen=True, slots=True)
class Piece(QueriesAndKeys):
    """A range of queries, and their keys, of which the last query sees the last one, and so on.

    That is causal attention aligned at the lower right corner: query i of n sees the first
    num_keys - (n - 1 - i) keys, and of these with a window only the last ones.

    Attributes:
        queries: (start, end) among this process's queries.
        keys: (start, end) ranges of the whole sequence, in order; neighbours in this order have
            neighbouring positions.
        window: the number of keys that a query sees at most, including its own; None if all queries see all
            keys up to their own.
    """

    window: int | None = None


def with_window(pieces: Sequence[Piece], window: int | None) -> tuple[Piece, ...]:
    """The same queries, each of which sees only the last `window` keys up to its own.

    Keys that no query of a piece sees any more are left out, and a piece that is not longer than the window
    stays as it is.
    """
    return tuple(_limited(piece, window) for piece in pieces)


def _limited(piece: Piece, window: int | None) -> Piece:
    if window is None or piece.num_keys <= window:
        return piece
    num_seen = min(piece.num_keys, piece.num_queries - 1 + window)
    keys = tuple(cut_ranges(piece.keys, piece.num_keys - num_seen, piece.num_keys))
    return Piece(piece.queries, keys, window if num_seen > window else None)


def blocks_of(piece: Piece, num_queries: int) -> Iterator[Piece]:
    """The piece, cut into pieces of `num_queries` queries with the keys that they see, and of the rest."""
    start, end = piece.queries
    for first in range(start, end, num_queries):
        last = min(first + num_queries, end)
        keys = tuple(cut_ranges(piece.keys, 0, piece.num_keys - (end - last)))
        yield _limited(Piece((first, last), keys), piece.window)


def pieces_of(segments: Sequence[Segment], ranges: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Pieces of the tokens in `ranges`, which a process holds in this order.

    Args:
        segments: of the whole sequence, in order.
        ranges: (start, end) of the whole sequence; ((0, t),) without context parallelism.
    """
    pieces: list[Piece] = []
    offset = 0
    for start, end in ranges:
        for segment in segments:
            first, last = max(start, segment.start), min(end, segment.end)
            if first < last:
                queries = (offset + first - start, offset + last - start)
                _append(pieces, Piece(queries, _seen_from(segment, last)))
        offset += end - start
    return tuple(pieces)


def scored_pieces(segments: Sequence[Segment], positions: Sequence[int]) -> tuple[Piece, ...]:
    """Pieces of the queries at these positions: query i is at positions[i] of the whole sequence.

    Queries at neighbouring positions of a segment are one piece.
    """
    starts = [segment.start for segment in segments]
    pieces: list[Piece] = []
    first = 0
    while first < len(positions):
        segment = segments[bisect_right(starts, positions[first]) - 1]
        end = first + 1
        while end < len(positions) and positions[end] == positions[end - 1] + 1 < segment.end:
            end += 1
        _append(pieces, Piece((first, end), _seen_from(segment, positions[end - 1] + 1)))
        first = end
    return tuple(pieces)


def _seen_from(segment: Segment, end: int) -> Ranges:
    """Ranges that the token before `end` of a segment sees; adjacent ranges are joined."""
    if segment.prefix is None:
        return ((segment.start, end),)
    if segment.prefix[1] == segment.start:
        return ((segment.prefix[0], end),)
    return (segment.prefix, (segment.start, end))


def _append(pieces: list[Piece], piece: Piece) -> None:
    """Add a piece; join it to the last one if it continues that.

    So a prompt and the response right after it are one causal piece, without a mask.
    """
    if pieces:
        last = pieces[-1]
        goes_on = (
            len(last.keys) == len(piece.keys) == 1
            and last.queries[1] == piece.queries[0]
            and last.keys[0][0] == piece.keys[0][0]
            and last.keys[0][1] == piece.keys[0][1] - piece.num_queries
        )
        if goes_on:
            pieces[-1] = Piece((last.queries[0], piece.queries[1]), piece.keys)
            return
    pieces.append(piece)


@dataclass(frozen=True, slots=True)
class HeldScores:
    """The scored positions of one process, without duplicates: equal responses must get equal scores.

    Attributes:
        positions: indices in the whole sequence, at least one: a process without scored positions takes its
            first token, so that every process takes part in the same communication.
        rows: the same positions as indices among this process's tokens.
        slots: for each response of the batch, index of the row at which it is scored; 0 if not held.
        is_held: for each response, whether this process holds its position.
    """

    positions: tuple[int, ...]
    rows: tuple[int, ...]
    slots: tuple[int, ...]
    is_held: tuple[bool, ...]


def held_scores(scored_positions: Sequence[int], ranges: Sequence[tuple[int, int]]) -> HeldScores:
    """The scored positions in the ranges that a process holds."""
    rows: dict[int, int] = {}
    for position in scored_positions:
        offset = 0
        for start, end in ranges:
            if start <= position < end:
                rows[position] = offset + position - start
            offset += end - start
    place = {position: number for number, position in enumerate(rows)}
    return HeldScores(
        positions=tuple(rows) or (ranges[0][0],),
        rows=tuple(rows.values()) or (0,),
        slots=tuple(place.get(position, 0) for position in scored_positions),
        is_held=tuple(position in rows for position in scored_positions),
    )
