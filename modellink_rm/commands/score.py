"""python -m modellink_rm score: score responses, or pairs, with a trained model."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import whole_file
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import info, is_first_process, set_up_logging, warn_once
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig, ModelOverrides
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.score import ScoreConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.handlers import make_handler
from modellink_rm.inference.inputs import ScoreInput, score_input
from modellink_rm.records import BadRecord, Record, RecordError, read_records

if TYPE_CHECKING:
    from modellink_rm.checkpoint.source import ModelPlan
    from modellink_rm.dataset.example import Example
    from modellink_rm.inference.scorer import Scorer
    from modellink_rm.templates.table import Template
    from modellink_rm.tokenizers.tokenizer import Tokenizer

INPUTS_AT_A_TIME = 512


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How to score, once checked: the model and its inference contract."""

    model: "ModelPlan"
    template: "Template"
    tokenizer: "Tokenizer"
    seq_length: int
    truncation: str
    bf16: bool


@dataclass
class _Summary:
    """Counts over the inputs so far."""

    inputs: int = 0
    bad: int = 0
    truncated: int = 0
    pairs: int = 0
    correct: int = 0
    ties: int = 0
    margin: float = 0.0
    responses: int = 0
    score: float = 0.0

    def lines(self) -> list[str]:
        """What to tell at the end."""
        told = []
        if self.pairs:
            accuracy = (self.correct + 0.5 * self.ties) / self.pairs
            told.append(
                f"pairs: {self.pairs} | accuracy: {accuracy:.4f} | "
                f"mean margin: {self.margin / self.pairs:.4f} | ties: {self.ties}"
            )
        if self.responses:
            told.append(f"responses: {self.responses} | mean score: {self.score / self.responses:.4f}")
        told.append(f"inputs: {self.inputs} | truncated: {self.truncated} | not scored: {self.bad}")
        return told


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every input was scored, 1 when some were not.

    Raises:
        UserError: the flags, the model or the input cannot work.
    """
    set_up_logging()
    groups = (ScoreConfig, TokenizerConfig, ModelOverrides, ParallelConfig, KernelConfig)
    parsed = parse_flags(
        argv,
        groups,
        prog="python -m modellink_rm score",
        description="Score responses with a reward model: one JSON line per input, in input order.",
        usage="--load DIR --input FILE [--output FILE]",
        example="python -m modellink_rm score --load checkpoints/llama2 --input pairs.jsonl",
    )
    score, parallel = parsed[ScoreConfig], parsed[ParallelConfig]
    model = ModelConfig(**asdict(parsed[ModelOverrides]))  # its shape is the weights'
    check_output(score.output)
    records = read_records(score.input)
    chunk = list(islice(records, INPUTS_AT_A_TIME))
    if not chunk:
        raise UserError(f"--input {score.input} holds no record")
    handler = make_handler(score.handler_name, score.map_keys) if score.handler_name else None
    if score.map_keys and handler is None:
        raise UserError("--map-keys needs --handler-name: it names that handler's fields")
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.model.kernel_choice import choose_kernels
    from modellink_rm.parallel.groups import process_groups, world_size_from_environment

    parallel.data_parallel_size(world_size_from_environment())
    plan = _plan(score, parsed[TokenizerConfig], model, parallel)
    summary = _Summary()
    platform = detect_platform(parallel.distributed_backend)
    precision = PrecisionConfig(bf16=plan.bf16)
    kernels = choose_kernels(parsed[KernelConfig], platform, dtype=precision.dtype, dropout=0.0, num_steps=0)
    with process_groups(parallel, platform, seed=score.seed) as ranks, _output(score.output) as write:
        from modellink_rm.checkpoint.load import load_model_weights
        from modellink_rm.inference.scorer import Scorer
        from modellink_rm.model.build import build_model

        built = build_model(
            plan.model.spec,
            model=model,
            parallel=parallel,
            precision=precision,
            kernels=kernels,
            seed=score.seed,
            initialize=plan.model.source.is_random,
        )
        load_model_weights(built, plan.model.source, ranks)
        scorer = Scorer(
            model=[chunk.eval() for chunk in built],
            template=plan.template,
            tokenizer=plan.tokenizer,
            seq_length=plan.seq_length,
            truncation=plan.truncation,
            micro_batch_size=score.micro_batch_size,
            divisible_by=parallel.tokens_divisible_by(),
            device=platform.device,
            ranks=ranks,
        )
        while chunk:
            for row in _score_chunk(chunk, handler, scorer, summary):
                write(row)
            chunk = list(islice(records, INPUTS_AT_A_TIME))
    for line in summary.lines():
        _tell(line, to_stderr=score.output is None)
    return 1 if summary.bad else 0


def _plan(
    score: ScoreConfig, tokenizer: TokenizerConfig, model: ModelConfig, parallel: ParallelConfig
) -> _Plan:
    """Put the flags and the checkpoint's contract together.

    Raises:
        UserError: they contradict each other, or something is said by neither.
    """
    from modellink_rm.checkpoint.contract import read_contract
    from modellink_rm.checkpoint.source import open_source, plan_model, tokenizer_of
    from modellink_rm.templates.choice import find_template, kept_template
    from modellink_rm.tokenizers.load import load_tokenizer

    source = open_source(score.load)
    planned = plan_model(source, model, parallel, loosely=score.load_checkpoint_loosely)
    contract = read_contract(source.checkpoint.path) if source.checkpoint is not None else None
    prompt_type = score.prompt_type or (contract.prompt_type if contract is not None else None)
    if prompt_type is None:
        raise UserError(f"--prompt-type is needed: --load {score.load} does not say which template it reads")
    loaded = load_tokenizer(tokenizer_of(tokenizer, source))
    if contract is not None and prompt_type == contract.prompt_type:
        template = kept_template(prompt_type, contract.template_definition, where=score.load)
    else:
        template = find_template(prompt_type, loaded)
    seq_length, truncation, bf16 = score.seq_length, score.truncation, score.bf16
    if contract is not None and source.checkpoint is not None:
        if contract.template_fingerprint not in (None, template.fingerprint):
            raise UserError(
                f"--prompt-type {prompt_type} is not the template that {score.load} was trained with "
                f"({contract.prompt_type})"
            )
        if contract.tokenizer_fingerprint != loaded.fingerprint:
            raise UserError(
                f"the tokenizer {loaded.name} is not the one that {score.load} was trained with; leave the "
                "tokenizer's flags out to use that one"
            )
        seq_length = seq_length or contract.seq_length
        truncation = truncation or contract.truncation
        bf16 = bf16 or bool(source.checkpoint.config["precision"]["bf16"])
    seq_length = seq_length or planned.shape.max_position_embeddings
    if seq_length > planned.shape.max_position_embeddings:
        raise UserError(
            f"--seq-length {seq_length} is above the model's --max-position-embeddings "
            f"{planned.shape.max_position_embeddings}"
        )
    return _Plan(
        model=planned,
        template=template,
        tokenizer=loaded,
        seq_length=seq_length,
        truncation=truncation or "right",
        bf16=bf16,
    )


def _score_chunk(
    chunk: Sequence[Record | BadRecord], handler: Any, scorer: "Scorer", summary: _Summary
) -> Iterator[dict[str, Any]]:
    """One row per input of the chunk, in order."""
    inputs = [_parsed(record, handler, scorer) for record in chunk]
    examples = [item[1] for item in inputs if not isinstance(item, str)]
    scored = iter(scorer.scores(examples)) if examples else iter(())
    for item in inputs:
        summary.inputs += 1
        if isinstance(item, str):
            summary.bad += 1
            warn_once(item)
            yield {"error": item}
            continue
        asked, example = item
        summary.truncated += example.is_truncated
        row = _row(asked, next(scored), summary)
        yield {**row, "truncated": True} if example.is_truncated else row


def _parsed(record: Record | BadRecord, handler: Any, scorer: "Scorer") -> "tuple[ScoreInput, Example] | str":
    """The input of a record with its ids, or what is wrong with it."""
    if isinstance(record, BadRecord):
        return f"{record.place}: {record.message}"
    try:
        asked = score_input(record.fields, handler)
        return asked, scorer.tokenize(asked)
    except RecordError as error:
        return f"{record.place}: {error}"


def _row(item: ScoreInput, scores: tuple[float, ...], summary: _Summary) -> dict[str, Any]:
    if not item.is_pair:
        summary.responses += 1
        summary.score += scores[0]
        return {"score": scores[0]}
    chosen, rejected = scores
    summary.pairs += 1
    summary.correct += chosen > rejected
    summary.ties += chosen == rejected
    summary.margin += chosen - rejected
    return {"chosen_score": chosen, "rejected_score": rejected, "margin": chosen - rejected}


def check_output(path: str | None) -> None:
    """Make the directory of --output, where one is named.

    Raises:
        UserError: the file cannot be written there.
    """
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path}: its directory cannot be made: {error.strerror}") from None
    if Path(path).is_dir() or not os.access(Path(path).parent, os.W_OK):
        raise UserError(f"--output {path} cannot be written: it must name a file in a directory you own")


@contextmanager
def _output(path: str | None) -> Iterator[Any]:
    """A function that writes one row, on the first process; elsewhere one that does nothing.

    A file appears under its name only when all rows are in it.
    """
    if not is_first_process():
        yield lambda row: None
    elif path is None:
        yield lambda row: print(json.dumps(row), flush=True)
    else:
        with whole_file(Path(path)) as file:
            yield lambda row: file.write(json.dumps(row).encode() + b"\n")
        info(f"scores: {path}")


def _tell(line: str, *, to_stderr: bool) -> None:
    if is_first_process():
        print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)


COMMANDS.add(Command(summary="score responses or pairs with a reward model", main=main), "score")
