"""python -m modellink_rm evaluate: a reward model on held-out sets and benchmarks."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import write_whole
from modellink_rm.base.flags import groups_of, parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import info, is_first_process, set_up_logging
from modellink_rm.base.outputs import prepare_output
from modellink_rm.checkpoint.base_reference import BaseReference, checkpoint_reference
from modellink_rm.checkpoint.contract import read_contract, write_normalization
from modellink_rm.checkpoint.layout import find_checkpoint
from modellink_rm.commands.output import files_of_model
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.evaluate import EvaluateConfig
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.evaluation.inputs import NamedInput, check_names_differ, named_inputs
from modellink_rm.evaluation.read_benchmarks import read_benchmarks
from modellink_rm.evaluation.table import lines_of
from modellink_rm.metrics.normalization import normalization_of_pairs
from modellink_rm.records import input_files
from modellink_rm.tokenizers.directory import tokenizer_files

if TYPE_CHECKING:
    from modellink_rm.evaluation.results import EvaluationResults

GROUPS = groups_of(ScorerOptions)


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every record was scored, 1 when some were not.

    Raises:
        UserError: the flags, a model or the data cannot work.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        (EvaluateConfig, *GROUPS.values()),
        prog="python -m modellink_rm evaluate",
        description="Evaluate a reward model on held-out pairs and public benchmarks.",
        usage="--load DIR --data NAME=PATH [NAME=PATH ...] [--benchmark NAME=PATH ...] [--output FILE]",
        example="python -m modellink_rm evaluate --load checkpoints/llama2 --data held-out=heldout.jsonl",
    )
    config: EvaluateConfig = parsed[EvaluateConfig]
    options = _with_raw_scores(ScorerOptions(**{name: parsed[group] for name, group in GROUPS.items()}))
    if config.write_normalization and options.scorer.load_adapter is not None:
        raise UserError("--write-normalization has no place for it with --load-adapter; --load a checkpoint")
    checkpoint = find_checkpoint(Path(options.scorer.load)) if config.write_normalization else None
    if config.write_normalization and checkpoint is None:
        raise UserError(
            f"--write-normalization: --load {options.scorer.load} is no checkpoint of this tool, which has a "
            "place for it; import makes one"
        )
    if checkpoint is not None and read_contract(checkpoint).attributes:
        raise UserError(
            f"--write-normalization: {options.scorer.load} gives ratings of attributes, which have a scale; "
            "it is for a model of one score"
        )
    measured = checkpoint_reference(checkpoint) if checkpoint is not None else None
    sets = named_inputs("--data", config.data, config)
    check_names_differ(sets)
    benchmarks = named_inputs("--benchmark", config.benchmark, config)
    _check_files(config, options, [*sets, *benchmarks])
    rows = read_benchmarks(benchmarks)
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.evaluation.evaluate import EvaluationInputs, evaluate

    inputs = EvaluationInputs(
        sets=tuple(sets), benchmarks=tuple(rows), training_data=config.training_data, limits=config
    )
    results = evaluate(options, config.compare, inputs, shows_progress=is_first_process())
    if is_first_process():
        try:
            if config.output is not None:
                write_whole(Path(config.output), results.to_json())
            if checkpoint is not None and measured is not None:
                _write_normalization(config, results, checkpoint, measured)
        finally:  # each is written, though the other may have no room
            print(*lines_of(results), sep="\n", flush=True)
        if config.output is not None:
            info(f"results: {config.output}")
    return 1 if any(model.num_not_scored for model in results.models) else 0


def _with_raw_scores(options: ScorerOptions) -> ScorerOptions:
    """The options for the model's own scores: its loss and its calibration are of these.

    Raises:
        UserError: --normalize is given.
    """
    if options.scorer.normalize:
        raise UserError("--normalize is not for evaluate: loss and calibration are of the model's own scores")
    return dataclasses.replace(options, scorer=dataclasses.replace(options.scorer, raw=True))


def _write_normalization(
    config: EvaluateConfig, results: "EvaluationResults", checkpoint: Path, measured: BaseReference
) -> None:
    """Normalize the scores of the first model by one of its sets from now on.

    Args:
        measured: what told the checkpoint from others before it was read.

    Raises:
        UserError: all scores are equal, or they may be of another checkpoint.
    """
    if find_checkpoint(Path(results.models[0].load)) != checkpoint:
        raise UserError(
            f"--write-normalization: {results.models[0].load} has a newer checkpoint by now, and nothing is "
            "written; give one of its iter_ directories"
        )
    if checkpoint_reference(checkpoint) != measured:
        raise UserError(
            f"--write-normalization: {checkpoint} was written anew while it was evaluated, and nothing is "
            "written; evaluate it again"
        )
    (found,) = (one for one in results.models[0].sets if one.name == config.write_normalization)
    try:
        normalization = normalization_of_pairs(
            chosen=(found.chosen_score, found.chosen_std),
            rejected=(found.rejected_score, found.rejected_std),
            num_pairs=found.num_pairs,
            kind="standard" if config.normalization_kind == "standard" else "reference",
            data=found.name,
        )
    except ValueError as error:
        raise UserError(f"--write-normalization {found.name}: {error}") from None
    path = write_normalization(checkpoint, normalization)
    info(f"normalization: {normalization}; score and Scorer apply it from now on: {path}")


def _check_files(config: EvaluateConfig, options: ScorerOptions, named_files: Sequence[NamedInput]) -> None:
    """Every file to read is there and holds a record, and --output can be written.

    Raises:
        UserError: one is not, or --output is a file that is read.
    """
    inputs = []
    for named in named_files:
        inputs += named.files()
        if next(iter(named.records()), None) is None:
            raise UserError(f"{named.flag} {named.name}={named.path} holds no record")
    inputs += input_files(config.training_data, flag="--training-data")
    inputs += files_of_model(Path(options.scorer.load), options.scorer.load_adapter)
    for load in config.compare:
        inputs += files_of_model(Path(load))
    prepare_output(config.output, inputs=[*inputs, *tokenizer_files(options.tokenizer)])


COMMANDS.add(
    Command(summary="evaluate a reward model on held-out sets and benchmarks", main=main), "evaluate"
)
