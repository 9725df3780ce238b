"""python -m modellink_rm score: score responses, pairs or rankings with a trained model."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.files import exclusive, remove_remains, whole_file
from modellink_rm.base.flags import groups_of, parse_flags
from modellink_rm.base.log import info, is_first_process, set_up_logging
from modellink_rm.base.terminal import progress_bar
from modellink_rm.commands.output import files_of_model, prepare_output
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.score import ScoreConfig, ScorerConfig
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.inference.reader import check_first
from modellink_rm.inference.result import NOT_FINITE, NotScored, Scored
from modellink_rm.metrics.accuracy import accuracy
from modellink_rm.records import input_files, read_records
from modellink_rm.tokenizers.directory import tokenizer_files

if TYPE_CHECKING:
    from modellink_rm.inference.scorer import Scorer

GROUPS = groups_of(ScorerOptions)
INPUTS_AT_A_TIME = 512
_BAD_INPUTS_SHOWN = 10


@dataclass
class _Totals:
    """Counts over the inputs so far."""

    inputs: int = 0
    bad: int = 0
    not_finite: int = 0
    truncated: int = 0
    pairs: int = 0
    wins: int = 0
    ties: int = 0
    margin: float = 0.0
    responses: int = 0
    score: float = 0.0

    def add(self, result: Scored | NotScored) -> None:
        """Count one input."""
        self.inputs += 1
        if isinstance(result, NotScored):
            self.bad += 1
            self.not_finite += result.reason == NOT_FINITE
            return
        self.truncated += result.is_truncated
        if not result.is_pair:
            self.responses += len(result.scores)
            self.score += sum(result.scores)
            return
        chosen, rejected = result.scores
        self.pairs += 1
        self.wins += chosen > rejected
        self.ties += chosen == rejected
        self.margin += chosen - rejected

    def lines(self) -> list[str]:
        """The summary, printed at the end."""
        lines = []
        if self.pairs:
            share = accuracy(self.wins, self.ties, self.pairs)
            lines.append(
                f"pairs: {self.pairs} | accuracy: {share:.4f} | "
                f"mean margin: {self.margin / self.pairs:.4f} | ties: {self.ties}"
            )
        if self.responses:
            lines.append(f"responses: {self.responses} | mean score: {self.score / self.responses:.4f}")
        not_finite = f" ({self.not_finite} not finite)" if self.not_finite else ""
        lines.append(
            f"inputs: {self.inputs} | truncated: {self.truncated} | not scored: {self.bad}{not_finite}"
        )
        return lines

    def check_some_finite(self) -> None:
        """Some score is finite, or the records themselves are at fault.

        Raises:
            AgreedError: every score is NaN or infinite.
        """
        if self.not_finite and self.not_finite == self.bad == self.inputs:
            raise AgreedError(
                f"no score of the {self.inputs} inputs is finite: most likely the weights of --load are "
                "damaged, or of another model than its config.json says; load an earlier checkpoint"
            )


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every input was scored, 1 when some were not.

    Raises:
        UserError: the flags, the model or the input cannot work.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        (ScoreConfig, *GROUPS.values()),
        prog="python -m modellink_rm score",
        description="Score responses with a reward model: one JSON line per input, in input order.",
        usage="--load DIR --input FILE [--output FILE]",
        example="python -m modellink_rm score --load checkpoints/llama2 --input pairs.jsonl",
    )
    score: ScoreConfig = parsed[ScoreConfig]
    load = parsed[ScorerConfig].load
    inputs = [
        *input_files(score.input),
        *files_of_model(Path(load)),
        *tokenizer_files(parsed[TokenizerConfig]),
    ]
    prepare_output(score.output, inputs=inputs)
    records = read_records(score.input, score)
    block = list(islice(records, INPUTS_AT_A_TIME))
    if not block:
        raise UserError(f"--input {' '.join(score.input)} holds no record")
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.inference.plan import plan_scoring
    from modellink_rm.inference.scorer import Scorer
    from modellink_rm.parallel.failures import end_with_launcher, ending_together

    end_with_launcher()
    plan = plan_scoring(ScorerOptions(**{name: parsed[group] for name, group in GROUPS.items()}))
    check_first(plan.inputs.reader, block)
    totals = _Totals()
    with (
        Scorer(plan) as scorer,
        ending_together(),
        _output(score.output) as write,
        progress_bar(total=None, unit="input", is_shown=_shows_progress(score)) as bar,
    ):
        while block:
            for row in _rows(scorer, block, totals):
                write(row)
            bar.update(len(block))
            block = list(islice(records, INPUTS_AT_A_TIME))
        totals.check_some_finite()
    if totals.bad > _BAD_INPUTS_SHOWN:
        info(f"... and {totals.bad - _BAD_INPUTS_SHOWN:,} more inputs that are not scored")
    for line in totals.lines():
        _print(line, to_stderr=score.output is None)
    return 1 if totals.bad else 0


def _rows(scorer: "Scorer", block: Sequence[Any], totals: _Totals) -> Iterator[dict[str, Any]]:
    """One row per input of the block, in order."""
    for result in scorer.results(block):
        totals.add(result)
        if isinstance(result, NotScored):
            if totals.bad <= _BAD_INPUTS_SHOWN:
                info(f"warning: {result.message}")
            yield {"error": result.message}
        else:
            row = _row(result)
            yield {**row, "truncated": True} if result.is_truncated else row


def _row(result: Scored) -> dict[str, Any]:
    if result.is_pair:
        chosen, rejected = result.scores
        return {"chosen_score": chosen, "rejected_score": rejected, "margin": chosen - rejected}
    scores = result.in_record_order
    return {"score": scores[0]} if len(scores) == 1 else {"scores": scores}


@contextmanager
def _output(path: str | None) -> Iterator[Callable[[dict[str, Any]], Any]]:
    """A function that writes one row, on the first process; elsewhere one that does nothing.

    A file appears under its name only when all rows are in it; a second run that is to write it is refused.
    """
    if not is_first_process():
        yield lambda row: None
    elif path is None:
        yield lambda row: print(json.dumps(row), flush=True)
    else:
        output = Path(path)
        lock = output.with_name(f".{output.name}.lock")
        with exclusive(lock, f"--output {path}: another run is writing it; give another name"):
            try:
                remove_remains([output])
                with whole_file(output) as file:
                    yield lambda row: file.write(json.dumps(row).encode() + b"\n")
            finally:
                lock.unlink(missing_ok=True)
        info(f"scores: {path}")


def _shows_progress(score: ScoreConfig) -> bool:
    """Whether a bar would not stand among the rows."""
    return is_first_process() and (score.output is not None or not sys.stdout.isatty())


def _print(line: str, *, to_stderr: bool) -> None:
    if is_first_process():
        print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)


COMMANDS.add(Command(summary="score responses or pairs with a reward model", main=main), "score")
