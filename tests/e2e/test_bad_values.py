"""Every flag of every command with values that cannot be meant: one line, exit code 2, in no time."""

import dataclasses
import random
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import run_command
from modellink_rm.base.flags import flag_name
from modellink_rm.commands import (
    average,
    best_of_n,
    doctor,
    estimate,
    evaluate,
    export,
    filter,
    generate,
    import_model,
    inspect,
    make_pairs,
    preprocess,
    report,
    score,
    serve,
    study,
    train,
)
from modellink_rm.config.average import AverageConfig
from modellink_rm.config.doctor import DoctorConfig
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.evaluate import EvaluateConfig
from modellink_rm.config.export import ExportConfig, ImportConfig
from modellink_rm.config.generate import GenerateConfig, PolicyConfig, SamplingConfig
from modellink_rm.config.inspect import InspectConfig
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.merge import MergeConfig
from modellink_rm.config.model import ModelConfig, ModelOverrides
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.preprocess import PreprocessConfig
from modellink_rm.config.report import ReportConfig
from modellink_rm.config.score import ScoreConfig
from modellink_rm.config.selection import BestOfNConfig, FilterConfig, MakePairsConfig
from modellink_rm.config.serve import ServeConfig
from modellink_rm.config.study import StudyConfig
from modellink_rm.config.tokenizer import TokenizerConfig

VALUES = ("", "word", "0", "-1", "1" + "0" * 20, "nan", "no/such/path")
NEVER_NUMBERS = ("", "word", "nan", "no/such/path")
# Numbers below 0 that mean something.
MAY_BE_NEGATIVE = ("--profile-ranks", "--min-score", "--max-score", "--min-gap", "--max-gap")


@dataclass(frozen=True)
class Command:
    """A command with flags that end in one line on `nowhere`, whatever else is right.

    Attributes:
        words: without a flag that has every value tried.
    """

    main: Callable[[Sequence[str]], int]
    groups: tuple[type[Any], ...]
    words: str


COMMANDS = {
    "preprocess": Command(
        preprocess.main,
        (PreprocessConfig, TokenizerConfig),
        "--input pairs.jsonl --handler-name AlpacaStylePairwiseHandler --prompt-type llama2 "
        "--output-prefix out/x --tokenizer-name-or-path nowhere",
    ),
    "merge": Command(preprocess.main, (MergeConfig,), "--merge-shards --output-prefix nowhere"),
    "inspect": Command(inspect.main, (InspectConfig, TokenizerConfig), "--data-path nowhere"),
    "train": Command(
        train.main,
        tuple(train.GROUPS.values()),
        "--stage rm --is-pairwise-dataset --data-path nowhere --train-iters 1 --load nowhere",
    ),
    "evaluate": Command(
        evaluate.main,
        (EvaluateConfig,),
        "--load nowhere --data a=pairs.jsonl",
    ),
    "score": Command(
        score.main,
        (ScoreConfig, TokenizerConfig, ModelOverrides, ParallelConfig, KernelConfig),
        "--load nowhere --input pairs.jsonl",
    ),
    "generate": Command(
        generate.main,
        (GenerateConfig, PolicyConfig, SamplingConfig, TokenizerConfig),
        "--load nowhere --input pairs.jsonl",
    ),
    "study": Command(study.main, (StudyConfig,), "--answers a=nowhere b=no/where --output out.html"),
    "best-of-n": Command(best_of_n.main, (BestOfNConfig,), "--input nowhere"),
    "filter": Command(filter.main, (FilterConfig,), "--input nowhere --min-score 0"),
    "make-pairs": Command(make_pairs.main, (MakePairsConfig,), "--input nowhere"),
    "serve": Command(serve.main, (ServeConfig,), "--load nowhere --port 0"),
    "doctor": Command(doctor.main, (DoctorConfig,), "--directory nowhere"),
    "report": Command(report.main, (ReportConfig,), "nowhere --output out.html"),
    "export": Command(export.main, (ExportConfig, ParallelConfig), "--load nowhere --output out"),
    "average": Command(average.main, (AverageConfig, ParallelConfig), "nowhere elsewhere --output out"),
    "estimate": Command(estimate.main, (EstimateConfig, ModelConfig), "--load nowhere --gpus 8x80G"),
    "import": Command(
        import_model.main, (ImportConfig, TokenizerConfig, ParallelConfig), "--load nowhere --output out"
    ),
}


def flags_of(command: Command) -> Iterator[tuple[str, type | None, bool]]:
    """Name, type of a value (None: it takes none) and whether it has choices, of each flag."""
    for group in command.groups:
        hints = typing.get_type_hints(group)
        for field in dataclasses.fields(group):
            kinds = {int, float, bool} & {hints[field.name], *typing.get_args(hints[field.name])}
            kind = kinds.pop() if kinds else str
            name = flag_name(field.name, negated=field.default is True)
            yield name, None if kind is bool else kind, field.metadata["choices"] is not None


def must_be_named(name: str, kind: type | None, has_choices: bool, value: str) -> bool:
    """Whether the value is refused for the flag's own sake."""
    if kind is None or has_choices or value == "":
        return True
    if kind is int:
        return value in (*NEVER_NUMBERS, VALUES[4]) or (value == "-1" and name not in MAY_BE_NEGATIVE)
    return kind is float and value in NEVER_NUMBERS


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_bad_value_is_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"instruction": "a", "input": "", "chosen": "b", "rejected": "c"}\n')
    offences = []
    for name, kind, has_choices in flags_of(command):
        for value in VALUES:
            words = [*command.words.split(), f"{name}={value}"]
            code = run_command(command.main, words)
            told = capsys.readouterr().err
            lines = [line for line in told.splitlines() if not line.startswith("warning: ")]
            is_one_line = len(lines) == 1 and lines[0].startswith("error: ")
            names_it = name in told or not must_be_named(name, kind, has_choices, value)
            if code != 2 or not is_one_line or not names_it:
                offences.append(f"{name}={value}: exit code {code}, {told!r}")
    assert offences == []


PLAUSIBLE = ("1", "2", "3", "8", "64", "0.5", "1e-5", "true", "false", "a,b", "0,0,0", "pairs.jsonl", "{}")
NUM_COMBINATIONS = 150


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_flags_at_random_together_are_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"instruction": "a", "input": "", "chosen": "b", "rejected": "c"}\n')
    generator = random.Random(5)
    flags = list(flags_of(command))
    offences = []
    for _ in range(NUM_COMBINATIONS):
        words = command.words.split()
        for name, kind, _ in generator.sample(flags, min(len(flags), generator.randint(2, 5))):
            words.append(name if kind is None else f"{name}={generator.choice(PLAUSIBLE)}")
        code = run_command(command.main, words)
        told = capsys.readouterr().err
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        if code != 2 or len(errors) != 1 or "Traceback" in told:
            offences.append(f"{' '.join(words)}: exit code {code}, {told!r}")
    assert offences == []


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("preprocess", "--shard-index 1", "--shard-index 1 must be from 0 to --num-shards - 1 = 0"),
        ("preprocess", "--drop long-prompt", "--drop long-prompt needs a limit: --max-prompt-length"),
        ("preprocess", "--dataset-dir x", "--handler-name and --dataset-dir exclude each other"),
        ("merge", "--merge-group-keys k", "give one of --merge-shards and --merge-group-keys"),
        ("merge", "--input x", "--merge-group-keys needs --input"),
        ("train", "--train-samples 8", "one of --train-iters, --train-samples and"),
        ("train", "--auto-resume", "--auto-resume needs --save"),
        ("train", "--sequence-parallel", "--sequence-parallel needs --tensor-model-parallel-size of 2"),
        ("train", "--num-layers-per-virtual-pipeline-stage 1", "needs --pipeline-model-parallel-size of 2"),
        ("train", "--lr 1e-5 --min-lr 1e-3", "--min-lr"),
        ("train", "--split 0,0,0", "--split"),
        ("train", "--tensor-model-parallel-size 2", "does not divide the number of processes, 1"),
        ("train", "--lr-warmup-iters 5 --lr-warmup-fraction 0.5", "--lr-warmup-fraction"),
        ("score", "--map-keys {}", "--map-keys needs --handler-name"),
        ("score", "--raw --normalize", "--raw and --normalize exclude each other"),
        ("score", "--resume", "--resume needs --output"),
        ("score", "--keep a,,b", "--keep takes names of different fields"),
        ("score", "--micro-batch-size 2 --max-tokens-per-micro-batch 64", "both say how much"),
        ("evaluate", "--write-normalization b", "--write-normalization b: no --data has that name (a)"),
        ("evaluate", "--normalize", "--normalize is not for evaluate"),
        ("score", "--context-parallel-size 3", "does not divide the number of processes, 1"),
    ],
)
def test_flags_that_contradict_each_other_are_named(
    command: str,
    flags: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text('{"instruction": "a", "input": "", "chosen": "b", "rejected": "c"}\n')
    case = COMMANDS[command]
    assert run_command(case.main, [*case.words.split(), *flags.split()]) == 2
    told = capsys.readouterr().err
    assert message in told.splitlines()[-1]
