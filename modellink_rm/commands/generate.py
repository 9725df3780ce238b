"""python -m modellink_rm generate: answers of a language model to the prompts of records."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.launcher import module_as_child
from modellink_rm.base.log import info, set_up_logging
from modellink_rm.base.parts import file_identity
from modellink_rm.checkpoint.base_reference import checkpoint_reference
from modellink_rm.checkpoint.files import exported_checkpoint
from modellink_rm.checkpoint.layout import find_checkpoint, read_checkpoint_info
from modellink_rm.commands.output import files_of_model, identity_of_files, prepare_rows
from modellink_rm.commands.progress import progress_of_rows
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.generate import GenerateConfig, PolicyConfig, SamplingConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.generation.answer_files import (
    MAGIC,
    AnswerRun,
    AnswersPart,
    AnswerTotals,
    NoFiniteLogitsError,
)
from modellink_rm.generation.load_engine import load_engine
from modellink_rm.generation.plan import plan_generation
from modellink_rm.generation.prompts import PromptReader
from modellink_rm.handlers.custom import files_of_handler
from modellink_rm.inference.reader import check_first
from modellink_rm.inference.rows import kept_fields
from modellink_rm.records import blocks_of, input_files, read_raw_records, read_records
from modellink_rm.records.row_parts import RowParts, row_parts, rows_identity
from modellink_rm.tokenizers.directory import hugging_face_files, tokenizer_files
from modellink_rm.version import __version__

GROUPS = (GenerateConfig, PolicyConfig, SamplingConfig, TokenizerConfig)
_NOT_OF_THE_ROWS = ("output", "resume")
BLOCK_BYTES = 8 << 20


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when every prompt was answered, 1 when some were not.

    Raises:
        UserError: the flags, the model or the input cannot work.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        GROUPS,
        prog="python -m modellink_rm generate",
        description="Answer prompts with a language model: one row per record, in input order.",
        usage="--load DIR --input FILE [--output FILE]",
        example="python -m modellink_rm generate --load qwen3-8b --input prompts.jsonl --num-answers 4",
    )
    config: GenerateConfig = parsed[GenerateConfig]
    sampling: SamplingConfig = parsed[SamplingConfig]
    keep = kept_fields(config.keep)
    _check_one_process()
    _check_files(config, parsed)
    reader = PromptReader(parsed[PolicyConfig].handler_name, parsed[PolicyConfig].map_keys)
    first = next(read_records(config.input, config), None)
    if first is None:
        raise UserError(f"--input {' '.join(config.input)} holds no record")
    check_first(reader.handler_for, [first])
    policy = parsed[PolicyConfig] = _exported(parsed[PolicyConfig], resume=config.resume)
    plan = plan_generation(policy, sampling, parsed[TokenizerConfig], reader)
    with (
        _output(config, parsed) as (parts, write),
        progress_of_rows(config.input, output=config.output) as took,
    ):
        # It needs torch, and time: what is wrong with the flags is reported immediately.
        engine = load_engine(
            policy,
            sampling,
            end_ids=plan.ends.end_ids,
            trust_remote_code=parsed[TokenizerConfig].trust_remote_code,
        )
        run = AnswerRun(
            engine=engine,
            prompts=plan.prompts,
            ends=plan.ends,
            num_answers=sampling.num_answers,
            seed=sampling.seed,
            keep=keep,
            took=took,
            write=write,
            parts=parts,
        )
        blocks = blocks_of(
            read_raw_records(config.input, config), num_records=run.block_records, num_bytes=BLOCK_BYTES
        )
        totals = run.answer(blocks)
        totals.check_some_finite()
    print(totals.line(), file=sys.stderr if config.output is None else sys.stdout, flush=True)
    return 1 if totals.bad else 0


def _check_one_process() -> None:
    """Refuse torchrun: each process would write all answers.

    Raises:
        UserError: there are several processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise UserError(
            f"generate is one process, and torchrun started {count}: start it without torchrun; --engine "
            "vllm --vllm-gpus N divides a model, and several commands can each take a part of the input"
        )


def _exported(policy: PolicyConfig, *, resume: bool) -> PolicyConfig:
    """The policy as a Hugging Face directory, which is made of a checkpoint first.

    A process of its own exports: its weights and its process groups are gone when the engine starts.

    Raises:
        UserError: --load is a checkpoint and --export-to is missing, or the other way round; or what is there
            is of another checkpoint.
        SystemExit: the export failed, and has said why.
    """
    checkpoint = find_checkpoint(Path(policy.load))
    if checkpoint is None:
        if policy.export_to is not None:
            raise UserError(f"--export-to is for checkpoints of this tool, and --load {policy.load} is none")
        return policy
    if policy.export_to is None:
        raise UserError(
            f"--load {policy.load} is a checkpoint of this tool: --export-to DIR makes a Hugging Face "
            "directory of it, with which transformers or vLLM generates"
        )
    directory = Path(policy.export_to)
    if resume and (directory / "config.json").is_file():
        if exported_checkpoint(directory) != checkpoint_reference(checkpoint).fingerprint:
            raise UserError(
                f"--export-to {directory} is there, and not an export of {checkpoint}; give another "
                "directory, or the checkpoint that was answered with"
            )
    else:
        merge = ["--merge"] if read_checkpoint_info(checkpoint).run.base is not None else []
        words = ["export", "--load", str(checkpoint), "--output", policy.export_to, *merge]
        python, environment = module_as_child("modellink_rm")
        code = subprocess.run([*python, *words], env=environment, check=False).returncode
        if code:
            raise SystemExit(code)
    return dataclasses.replace(policy, load=policy.export_to, export_to=None)


def _check_files(config: GenerateConfig, parsed: Mapping[type[Any], Any]) -> None:
    """The inputs are there, and --output can be written.

    Raises:
        UserError: they are not.
    """
    inputs = [
        *input_files(config.input),
        *files_of_model(Path(parsed[PolicyConfig].load)),
        *tokenizer_files(parsed[TokenizerConfig]),
    ]
    prepare_rows(config.output, inputs=inputs)


@contextmanager
def _output(
    config: GenerateConfig, parsed: Mapping[type[Any], Any]
) -> Iterator[tuple[RowParts[AnswerTotals] | None, Callable[[AnswersPart], object]]]:
    """The parts of --output, if there is one, and a function that takes a part.

    A file appears under its name only when all rows are in it; what was answered before a run was stopped
    stays beside it.
    """
    if config.output is None:
        yield None, lambda part: print(part.rows.decode(), end="", flush=True)
        return
    identity = _identity(config, parsed)
    with row_parts(config.output, identity, magic=MAGIC, counts=AnswerTotals, resume=config.resume) as parts:
        try:
            yield parts, lambda part: parts.append(part.to_bytes())
        except NoFiniteLogitsError:  # what was answered is of no use
            parts.remove()
            raise
        parts.write(Path(config.output))
        parts.remove()
    info(f"answers: {config.output}")


def _identity(config: GenerateConfig, parsed: Mapping[type[Any], Any]) -> bytes:
    """All that determines the rows: the flags, and the files that are read."""
    flags = {name: value for kind in GROUPS for name, value in dataclasses.asdict(parsed[kind]).items()}
    policy: PolicyConfig = parsed[PolicyConfig]
    read = [
        *hugging_face_files(Path(policy.load)),
        *tokenizer_files(parsed[TokenizerConfig]),
        *files_of_handler(policy.handler_name),
    ]
    return rows_identity(
        {
            **{name: value for name, value in flags.items() if name not in _NOT_OF_THE_ROWS},
            "package_version": __version__,
            "input_files": [file_identity(path) for path in input_files(config.input)],
            **identity_of_files(read),
        }
    )


COMMANDS.add(Command(summary="answer prompts with a language model", main=main), "generate")
