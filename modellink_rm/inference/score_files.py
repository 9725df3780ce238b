"""Records of files to rows of scores, block by block, continued where an earlier run was stopped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from modellink_rm.base.log import info, is_first_process
from modellink_rm.inference.parts import ScoredPart, ScoreParts
from modellink_rm.inference.result import NotScored, Scored
from modellink_rm.inference.rows import KeptFields, output_row
from modellink_rm.inference.totals import Totals
from modellink_rm.records import BadRecord, Record, RecordBlock, parse_record
from modellink_rm.records.row_output import json_line
from modellink_rm.records.row_parts import part_of_block
from modellink_rm.records.row_run import BAD_INPUTS_SHOWN, run_blocks

# Examples of equal prompts share their computation within a block, and a kill loses at most one.
BLOCK_RECORDS = 1024
BLOCK_BYTES = 8 << 20


class ScoresRecords(Protocol):
    """The method of `Scorer` that is used here."""

    def results(self, items: Sequence[Record | BadRecord]) -> list[Scored | NotScored]:
        """The result of each record, in order, equal on all processes."""


@dataclass(frozen=True, kw_only=True)
class ScoreRun:
    """A run over blocks of records.

    Attributes:
        keep: which fields of a record are in its row.
        took: called with each part; with a finished one of an earlier run too.
        write: takes the rows of a part, on the first process.
        parts: those of the output file, on the first process where there is one.
    """

    scorer: ScoresRecords
    keep: KeptFields
    took: Callable[[ScoredPart], object]
    write: Callable[[ScoredPart], object]
    parts: ScoreParts | None = None

    def score(self, blocks: Iterator[RecordBlock]) -> Totals:
        """The counts of all records; a collective, with equal counts on all processes.

        Raises:
            InputChangedError: the records of a finished part are others now.
        """
        return run_blocks(
            blocks,
            Totals(),
            finished=self._finished(),
            make=lambda block, before: self._scored(block, num_bad=before.bad),
            write=self.write,
            took=self.took,
            what="scored",
        )

    def _finished(self) -> list[ScoredPart]:
        """The parts of an earlier run, of whose blocks no process scores any; a collective."""
        found = [part.without_rows() for part in self.parts.whole_parts()] if self.parts is not None else []
        shared = [found]
        if torch.distributed.get_world_size() > 1:
            torch.distributed.broadcast_object_list(shared, src=0)
        return shared[0]

    def _scored(self, block: RecordBlock, *, num_bad: int) -> ScoredPart:
        """The rows of a block; the first process names the first bad inputs."""
        records = [parse_record(raw) for raw in block]
        totals, rows = Totals(), []
        for record, result in zip(records, self.scorer.results(records), strict=True):
            totals.add(result)
            if isinstance(result, NotScored) and num_bad + totals.bad <= BAD_INPUTS_SHOWN:
                info(f"warning: {result.message}")
            if is_first_process():
                fields = record.fields if isinstance(record, Record) else {}
                rows.append(json_line(output_row(fields, result, self.keep)))
        return part_of_block(block, totals, rows)
