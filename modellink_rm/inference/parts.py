"""What `score` has finished, in parts that --resume continues from."""

from contextlib import AbstractContextManager

from modellink_rm.inference.totals import Totals
from modellink_rm.records.row_parts import RowParts, RowsPart, row_parts

_MAGIC = b"MLRMSCORE1"

ScoredPart = RowsPart[Totals]
ScoreParts = RowParts[Totals]


def score_parts(output: str, identity: bytes, *, resume: bool) -> AbstractContextManager[ScoreParts]:
    """The parts file of an output of `score`, as `row_parts` opens it."""
    return row_parts(output, identity, magic=_MAGIC, counts=Totals, resume=resume)
