"""Blocks of records to parts of rows, continued where an earlier run was stopped."""

from collections.abc import Callable, Iterator, Sequence

from modellink_rm.base.log import info
from modellink_rm.records.record import RecordBlock
from modellink_rm.records.row_parts import Counts, RowsPart

# By name, of the inputs that cannot be used.
BAD_INPUTS_SHOWN = 10


def run_blocks(
    blocks: Iterator[RecordBlock],
    totals: Counts,
    *,
    finished: Sequence[RowsPart[Counts]],
    make: Callable[[RecordBlock, Counts], RowsPart[Counts]],
    write: Callable[[RowsPart[Counts]], object],
    took: Callable[[RowsPart[Counts]], object],
    what: str,
) -> Counts:
    """The counts of all blocks, added to `totals`.

    Args:
        finished: the parts of an earlier run, whose blocks are passed over.
        make: the part of a block, given the counts of those before it.
        write: takes each new part.
        took: takes each part, the finished ones included.
        what: is done with a record, for messages: "scored".

    Raises:
        InputChangedError: the records of a finished part are others now.
    """
    for part in finished:
        part.check_input(next(blocks, RecordBlock()))
        totals.add_all(part.totals)
        took(part)
    if finished:
        info(f"--resume: {totals.inputs:,} records were {what} already")
    for block in blocks:
        part = make(block, totals)
        totals.add_all(part.totals)
        write(part)
        took(part)
    if totals.bad > BAD_INPUTS_SHOWN:
        info(f"... and {totals.bad - BAD_INPUTS_SHOWN:,} more inputs that are not {what}")
    return totals
