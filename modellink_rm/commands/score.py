"""python -m modellink_rm score: score responses, pairs or rankings with a trained model."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import groups_of, parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import info, is_first_process, set_up_logging
from modellink_rm.base.parts import file_identity
from modellink_rm.checkpoint.contract import NORMALIZATION_NAME
from modellink_rm.checkpoint.files import FILES_NAME
from modellink_rm.checkpoint.layout import find_checkpoint
from modellink_rm.commands.output import (
    files_of_model,
    identity_of_files,
    peft_files,
    places_of_model,
    prepare_rows,
)
from modellink_rm.commands.progress import progress_of_rows
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.score import ScoreConfig, ScorerConfig
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.handlers.custom import files_of_handler
from modellink_rm.inference.parts import ScoredPart, ScoreParts, score_parts
from modellink_rm.inference.reader import check_first
from modellink_rm.inference.rows import kept_fields
from modellink_rm.inference.totals import NoFiniteScoreError
from modellink_rm.records import blocks_of, input_files, parse_record, read_raw_records
from modellink_rm.records.row_parts import rows_identity
from modellink_rm.tokenizers.directory import hugging_face_files, tokenizer_files
from modellink_rm.version import __version__

if TYPE_CHECKING:
    from modellink_rm.checkpoint.source import ModelSource

GROUPS = groups_of(ScorerOptions)
_NOT_OF_THE_ROWS = ("output", "resume")


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
        description="Score responses with a reward model: one row per input, in input order.",
        usage="--load DIR --input FILE [--output FILE]",
        example="python -m modellink_rm score --load checkpoints/llama2 --input pairs.jsonl",
    )
    config: ScoreConfig = parsed[ScoreConfig]
    keep = kept_fields(config.keep)
    _check_files(config, parsed)
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.inference.plan import plan_scoring
    from modellink_rm.inference.score_files import BLOCK_BYTES, BLOCK_RECORDS, ScoreRun
    from modellink_rm.inference.scorer import Scorer
    from modellink_rm.parallel.failures import ending_together

    blocks = blocks_of(
        read_raw_records(config.input, config), num_records=BLOCK_RECORDS, num_bytes=BLOCK_BYTES
    )
    first = next(blocks, None)
    if first is None:
        raise UserError(f"--input {' '.join(config.input)} holds no record")
    plan = plan_scoring(ScorerOptions(**{name: parsed[group] for name, group in GROUPS.items()}))
    check_first(plan.inputs.reader, [parse_record(raw) for raw in first])
    if plan.attributes.names:
        info(f"the score is --attribute-weights {plan.attributes}; rows have every attribute beside it")
    if plan.normalization is not None:
        info(f"scores are normalized: {plan.normalization}; --raw gives the model's own")
    with (
        _output(config, parsed, plan.model.source) as (parts, write),
        Scorer(plan) as scorer,
        ending_together(),
        progress_of_rows(config.input, output=config.output) as progress,
    ):
        run = ScoreRun(scorer=scorer, keep=keep, took=progress, write=write, parts=parts)
        totals = run.score(chain([first], blocks))
        totals.check_some_finite()
    for line in totals.lines():
        _print(line, to_stderr=config.output is None)
    return 1 if totals.bad else 0


def _check_files(config: ScoreConfig, parsed: Mapping[type[Any], Any]) -> None:
    """The inputs are there, and --output can be written.

    Raises:
        UserError: they are not.
    """
    inputs = [
        *input_files(config.input),
        *files_of_model(Path(parsed[ScorerConfig].load), parsed[ScorerConfig].load_adapter),
        *tokenizer_files(parsed[TokenizerConfig]),
    ]
    prepare_rows(config.output, inputs=inputs)


@contextmanager
def _output(
    config: ScoreConfig, parsed: Mapping[type[Any], Any], source: "ModelSource"
) -> Iterator[tuple[ScoreParts | None, Callable[[ScoredPart], object]]]:
    """The parts of --output, if this process writes one, and a function that takes a part.

    A file appears under its name only when all rows are in it; what was scored before a run was stopped
    stays beside it.
    """
    if not is_first_process():
        yield None, lambda part: None
    elif config.output is None:
        yield None, lambda part: print(part.rows.decode(), end="", flush=True)
    else:
        identity = _identity(config, parsed, source)
        with score_parts(config.output, identity, resume=config.resume) as parts:
            try:
                yield parts, lambda part: parts.append(part.to_bytes())
            except NoFiniteScoreError:  # what was scored is of no use
                parts.remove()
                raise
            parts.write(Path(config.output))
            parts.remove()
        info(f"scores: {config.output}")


def _identity(config: ScoreConfig, parsed: Mapping[type[Any], Any], source: "ModelSource") -> bytes:
    """All that determines the rows: the flags, and the files that are read.

    Args:
        source: the model as it was opened; a --save may have a newer checkpoint by now.
    """
    kinds: list[type[Any]] = [ScoreConfig, *GROUPS.values()]
    flags = {name: value for kind in kinds for name, value in dataclasses.asdict(parsed[kind]).items()}
    scorer: ScorerConfig = parsed[ScorerConfig]
    load, adapter = Path(scorer.load), scorer.load_adapter
    if source.checkpoint is not None and adapter is not None and source.adapter is None:
        adapter = str(source.checkpoint.path)
    elif source.checkpoint is not None:
        load = source.checkpoint.path
    model = [file for place in places_of_model(load, adapter) for file in _weights_of(place)]
    if scorer.load_adapter is not None:
        model += peft_files(Path(scorer.load_adapter))
    handler = files_of_handler(parsed[ScorerConfig].handler_name)
    read = [*model, *tokenizer_files(parsed[TokenizerConfig]), *handler]
    return rows_identity(
        {
            **{name: value for name, value in flags.items() if name not in _NOT_OF_THE_ROWS},
            "package_version": __version__,
            "number of processes": int(os.environ.get("WORLD_SIZE", "1")),
            "input_files": [file_identity(path) for path in input_files(config.input)],
            **identity_of_files(read),
        }
    )


def _weights_of(load: Path) -> list[Path]:
    """The files that tell a model from another: all of them, or a checkpoint's list of them."""
    checkpoint = find_checkpoint(load)
    if checkpoint is None:
        return list(hugging_face_files(load))
    return [checkpoint / FILES_NAME, checkpoint / NORMALIZATION_NAME]


def _print(line: str, *, to_stderr: bool) -> None:
    if is_first_process():
        print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)


COMMANDS.add(Command(summary="score responses or pairs with a reward model", main=main), "score")
