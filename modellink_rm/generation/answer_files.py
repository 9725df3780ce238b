"""Records of files to rows of answers, block by block, continued where an earlier run was stopped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.generation.ends import AnswerEnds
from modellink_rm.generation.engine import Engine, Request
from modellink_rm.generation.prompts import NotAnswered, Prompt, PromptTokenizer
from modellink_rm.generation.rows import Answer, answer_row
from modellink_rm.inference.rows import KeptFields
from modellink_rm.records import Record, RecordBlock, parse_record
from modellink_rm.records.row_output import json_line
from modellink_rm.records.row_parts import RowCounts, RowParts, RowsPart, part_of_block
from modellink_rm.records.row_run import BAD_INPUTS_SHOWN, run_blocks

MAGIC = b"MLRMANSWER"


@dataclass
class AnswerTotals(RowCounts):
    """Counts over the inputs so far."""

    answers: int = 0
    tokens: int = 0
    cut: int = 0
    not_finite: int = 0

    def add(self, answers: Sequence[Answer], *, is_finite: bool = True) -> None:
        """Count the answers to one input; none if it is bad.

        Args:
            is_finite: False where it is bad because the model's logits are no numbers.
        """
        self.inputs += 1
        self.bad += not answers
        self.not_finite += not is_finite
        self.answers += len(answers)
        self.tokens += sum(one.num_tokens for one in answers)
        self.cut += sum(not one.ended for one in answers)

    def line(self) -> str:
        """The summary, printed at the end."""
        mean = self.tokens / max(1, self.answers)
        return (
            f"prompts: {self.inputs:,} | answers: {self.answers:,} | mean length: {mean:.1f} tokens | "
            f"cut at --max-new-tokens: {self.cut:,} | not answered: {self.bad:,}"
        )

    def check_some_finite(self) -> None:
        """Some logits are numbers, or the records themselves are at fault.

        Raises:
            NoFiniteLogitsError: the model answers nothing.
        """
        if self.not_finite and self.not_finite == self.bad == self.inputs:
            raise NoFiniteLogitsError(
                f"the logits for each of the {self.inputs} prompts are no finite numbers: most likely the "
                "weights of --load are damaged; copy them again, or give an earlier model"
            )


class NoFiniteLogitsError(UserError):
    """The model's logits are NaN or infinite for every prompt."""


AnswersPart = RowsPart[AnswerTotals]


@dataclass(frozen=True, kw_only=True)
class AnswerRun:
    """A run over blocks of records.

    Attributes:
        num_answers: to each prompt.
        seed: of all answers.
        keep: which further fields of a record are in its row.
        took: called with each part; with a finished one of an earlier run too.
        write: takes the rows of a part.
        parts: those of the output file, where there is one.
    """

    engine: Engine
    prompts: PromptTokenizer
    ends: AnswerEnds
    num_answers: int
    seed: int
    keep: KeptFields
    took: Callable[[AnswersPart], object]
    write: Callable[[AnswersPart], object]
    parts: RowParts[AnswerTotals] | None = None

    @property
    def block_records(self) -> int:
        """Records of a block, which fill the engine; a kill loses at most one block."""
        return max(1, self.engine.requests_at_once // self.num_answers)

    def answer(self, blocks: Iterator[RecordBlock]) -> AnswerTotals:
        """The counts of all records, of blocks of `block_records`.

        Raises:
            InputChangedError: the records of a finished part are others now.
        """
        return run_blocks(
            blocks,
            AnswerTotals(),
            finished=[part.without_rows() for part in self.parts.whole_parts()]
            if self.parts is not None
            else [],
            make=self._answered,
            write=self.write,
            took=self.took,
            what="answered",
        )

    def _answered(self, block: RecordBlock, before: AnswerTotals) -> AnswersPart:
        """The rows of a block; the first bad inputs are named.

        Args:
            before: the counts of the records before it, whose number is the first record's own.
        """
        records = [parse_record(raw) for raw in block]
        prompts = list(map(self.prompts, records))
        requests = [
            Request(prompt.ids, (self.seed, number, answer))
            for number, prompt in enumerate(prompts, start=before.inputs)
            if isinstance(prompt, Prompt)
            for answer in range(self.num_answers)
        ]
        made = iter(self.engine.token_ids(requests) if requests else [])
        totals, rows = AnswerTotals(), []
        for record, prompt in zip(records, prompts, strict=True):
            answers = self._answers(made) if isinstance(prompt, Prompt) else []
            is_finite = bool(answers) or isinstance(prompt, NotAnswered)
            if not is_finite:
                prompt = NotAnswered(f"{record.place}: the model's logits are no finite numbers")
            if isinstance(prompt, NotAnswered) and before.bad + totals.bad < BAD_INPUTS_SHOWN:
                info(f"warning: {prompt.message}")
            totals.add(answers, is_finite=is_finite)
            fields = record.fields if isinstance(record, Record) else {}
            rows.append(json_line(answer_row(fields, prompt, answers, self.keep)))
        return part_of_block(block, totals, rows)

    def _answers(self, made: Iterator[list[int] | None]) -> list[Answer]:
        """The answers to a prompt; none where the model's logits were no numbers for one of them."""
        found = [ids for ids in (next(made) for _ in range(self.num_answers)) if ids is not None]
        return list(map(self._answer, found)) if len(found) == self.num_answers else []

    def _answer(self, ids: list[int]) -> Answer:
        num_tokens = self.ends.num_tokens(ids)
        return Answer(text=self.ends.text_of(ids), num_tokens=num_tokens, ended=num_tokens < len(ids))
