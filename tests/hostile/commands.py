"""The commands in processes that start in an instant, and material for them."""

import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from modellink_rm.base.errors import run_command
from tests.hostile.ranks import run_ranks
from tests.tiny_data import random_pairs, random_steps, write_rows, write_tokenizer

SECONDS = 120.0
# For what a killed command started, to notice its end.
SECONDS_TO_FOLLOW = 5.0
# What takes seconds to import is there before a command's process is forked.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "modellink_rm.train.run",
        "modellink_rm.inference.scorer",
        "modellink_rm.preprocess.run",
        "modellink_rm.generation.transformers_engine",
    ]
)
_MAINS = {
    "preprocess": "preprocess",
    "merge": "preprocess",
    "train": "train",
    "train in background": "train",
    "train dpo": "train",
    "train prm": "train",
    "train adapters": "train",
    "score": "score",
    "score steps": "score",
    "generate": "generate",
    "export": "export",
    "import": "import_model",
    "average": "average",
    "evaluate": "evaluate",
    "report": "report",
    "filter": "filter",
    "best-of-n": "best_of_n",
    "make-pairs": "make_pairs",
    "estimate": "estimate",
}

HANDLER = "--handler-name SharegptStylePairwiseHandler --tokenizer-name-or-path model --prompt-type llama2"
PREPROCESS = f"--input pairs.json {HANDLER} --output-prefix"
TRAIN = (
    "--stage rm --is-pairwise-dataset --load model --load-checkpoint-loosely --data-path data/whole "
    "--seq-length 400 --micro-batch-size 2 --global-batch-size 4 --lr 1e-3 --train-iters 6 --save-interval 1 "
    "--eval-interval 3 --eval-iters 1 --split 90,10,0"
)
STEPS = (
    "--input steps.jsonl --handler-name StepwiseHandler --tokenizer-name-or-path model --prompt-type llama2 "
    "--placeholder-token so --output-prefix data/steps"
)
# The data set lies in the trial's own directory, since the reference's column is written beside it.
TRAIN_DPO = TRAIN.replace("--stage rm", "--stage dpo").replace(" --load-checkpoint-loosely", "")
TRAIN_DPO = TRAIN_DPO.replace("data/whole", "pairs")
# More than one part of the reference's column, in which a run can be stopped.
ROWS_OF_A_PART = 32
TRAIN_PRM = TRAIN.replace("--stage rm --is-pairwise-dataset", "--stage prm").replace("whole", "steps")
SCORE = "--load trained --input pairs.json --micro-batch-size 4"
GENERATE = (
    "--load model --prompt-type llama2 --input prompts.jsonl --num-answers 2 --max-new-tokens 8 "
    "--batch-size 4"
)


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        code: its exit code; the negative number of the signal that killed it.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> list[str]:
        """The lines that say what was wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith("error")]

    def is_one_line(self) -> bool:
        """Whether the command said in one line why it ended with exit code 2."""
        return self.code == 2 and len(self.errors) == 1 and "Traceback" not in self.stderr


@dataclass(frozen=True)
class Running:
    """A command that has been started."""

    process: Any
    stdout: Path
    stderr: Path

    def kill(self) -> None:
        """End its first process as the system does for want of memory."""
        self.process.kill()

    def kill_all(self) -> None:
        """End every process of it, as a batch system does."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Those that it started and that are alive."""
        return _processes_of(self.process.pid)

    def survivors(self) -> list[str]:
        """Processes that it started and that are still there a while after its end."""
        deadline = time.monotonic() + SECONDS_TO_FOLLOW
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in left:
            process.kill()
        return [" ".join(process.cmdline()[:3]) for process in left]

    def outcome(self) -> Outcome:
        """Wait for its end."""
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        texts = [path.read_text(errors="replace") for path in (self.stdout, self.stderr)]
        for path in (self.stdout, self.stderr):
            path.unlink()
        return Outcome(self.process.exitcode, *texts)


def _processes_of(session: int) -> list[psutil.Process]:
    """The processes of a session that are alive, the first of it apart."""
    found = []
    for process in psutil.process_iter():
        try:
            is_of_it = process.pid != session and os.getsid(process.pid) == session
            if is_of_it and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def start(
    command: str, words: str | Sequence[str], directory: Path, *, first: Callable[[], None] | None = None
) -> Running:
    """Start a command in `directory`.

    Args:
        command: one of TRIALS or WRITERS.
        words: its flags.
        first: called in the command's process before it; a function of a module, or a partial of one.
    """
    argv = words.split() if isinstance(words, str) else list(words)
    stamp = f"{os.getpid()}_{time.monotonic_ns()}"
    stdout, stderr = (directory.parent / f".{stamp}.{name}" for name in ("out", "err"))
    for path in (stdout, stderr):
        path.touch()
    process = _CONTEXT.Process(target=_serve, args=(command, argv, directory, stdout, stderr, first))
    process.start()
    return Running(process, stdout, stderr)


def run(
    command: str, words: str | Sequence[str], directory: Path, *, first: Callable[[], None] | None = None
) -> Outcome:
    """Run a command to its end."""
    return start(command, words, directory, first=first).outcome()


def _serve(
    command: str,
    argv: list[str],
    directory: Path,
    stdout: Path,
    stderr: Path,
    first: Callable[[], None] | None,
) -> None:
    """Be the command: a session and files for what it prints of its own, and its exit code."""
    os.setsid()
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, descriptor)
        os.close(file)
    # pytest's own, where it imported this module, are of the process that forked
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(directory)
    main = importlib.import_module(f"modellink_rm.commands.{_MAINS[command]}").main
    if command == "train dpo":
        vars(importlib.import_module("modellink_rm.train.reference"))["_ROWS_OF_A_PART"] = ROWS_OF_A_PART
    num_processes = PROCESSES.get(command, 1)
    if num_processes > 1:
        os._exit(run_ranks(num_processes, functools.partial(_called, main, argv, first)))
    os._exit(_called(main, argv, first))


def _called(main: Callable[..., int], argv: list[str], first: Callable[[], None] | None) -> int:
    """The exit code of a command; what it prints is printed."""
    code = 1
    try:
        if first is not None:
            first()
        code = run_command(main, argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
    return code


@dataclass(frozen=True)
class Material:
    """A model, records, a data set, two shards and a checkpoint, in a directory that is not written to again.

    Attributes:
        seconds: how long each command takes here, once `reference` was asked for it.
    """

    directory: Path
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def copy(self, target: Path, *, links: bool = True) -> Path:
        """A directory of its own with the material for one trial.

        Args:
            links: to what is only read; False for copies that can be changed.
        """
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ("model", "data", "trained", "steps"):
            if not (self.directory / name).exists():
                continue
            if links:
                (target / name).symlink_to(self.directory / name)
            else:
                shutil.copytree(self.directory / name, target / name)
        for path in self.directory.iterdir():
            if path.is_file():
                shutil.copyfile(path, target / path.name)
        return target


# The command that is tried, and the names of what it writes.
TRIALS = {
    "preprocess": f"{PREPROCESS} out",
    "merge": "--merge-shards --output-prefix shards",
    "train": f"{TRAIN} --save run --auto-resume",
    "train in background": f"{TRAIN} --save run --auto-resume --async-save --keep-last 2",
    "train dpo": f"{TRAIN_DPO} --save run --auto-resume",
    "train prm": f"{TRAIN_PRM} --save run --auto-resume",
    "train adapters": f"{TRAIN} --lora-r 4 --save run --auto-resume",
    "score": f"{SCORE} --output scores.jsonl",
    "score steps": "--load steps --input steps.jsonl --micro-batch-size 4 --output scores.jsonl",
    "generate": f"{GENERATE} --output answers.jsonl",
}
# Those that are more than one process, as torchrun starts them.
PROCESSES = {"train adapters": 2}
# What of these writes one file of rows, and its name.
ROWS = {"score": "scores.jsonl", "score steps": "scores.jsonl", "generate": "answers.jsonl"}

# Commands that write one file or directory, and its name.
WRITERS = {
    "export": ("--load trained --no-check-scores --output out", "out"),
    "import": ("--load model --load-checkpoint-loosely --prompt-type llama2 --output out", "out"),
    "average": ("--load trained/iter_0000001 trained/iter_0000002 --output out", "out"),
    "evaluate": ("--load trained --data held-out=pairs.json --output out.json", "out.json"),
    "report": ("trained --output out.html", "out.html"),
    "filter": ("--input rows.jsonl --min-score 0 --output out.jsonl", "out.jsonl"),
    "best-of-n": ("--input rows.jsonl --output out.parquet", "out.parquet"),
    "make-pairs": ("--input rows.jsonl --output out.jsonl", "out.jsonl"),
    "estimate": ("--load model --seq-length 400 --gpus 1x80G --output out.json", "out.json"),
}

# The prefix of the data set that a command writes.
OUTPUTS = {"preprocess": "out", "merge": "shards"}


def write_material(directory: Path, *, num_pairs: int = 240) -> Material:
    """Make everything by the commands themselves."""
    from tests.tiny_models import write_tiny_llama

    directory.mkdir(parents=True, exist_ok=True)
    write_tiny_llama(directory / "model")
    write_tokenizer(directory / "model")
    (directory / "pairs.json").write_text(json.dumps(random_pairs(num_pairs)))
    write_rows(directory / "steps.jsonl", random_steps(num_pairs))
    write_rows(directory / "prompts.jsonl", [{"prompt": one["prompt"]} for one in random_steps(40)])
    material = Material(directory)
    needed = [("preprocess", f"{PREPROCESS} data/whole")]
    needed += [
        ("preprocess", f"{PREPROCESS} shards --num-shards 2 --shard-index {index}") for index in range(2)
    ]
    needed += [("train", f"{TRAIN} --train-iters 2 --save trained")]
    _run_all(needed, directory)
    return material


def _run_all(commands: Sequence[tuple[str, str]], directory: Path) -> None:
    for command, words in commands:
        outcome = run(command, words, directory)
        assert outcome.code == 0, outcome.stderr


def copy_for_writer(material: Material, target: Path) -> Path:
    """A trial's directory with what the commands of WRITERS read."""
    rows = [{"prompt": "a", "response": f"b{number}", "score": number} for number in range(9)]
    write_rows(material.copy(target) / "rows.jsonl", rows)
    return target


# What a few commands need beside the rest, made when it is first asked for.
_NEEDED = {
    "train dpo": (("preprocess", f"{PREPROCESS} pairs"),),
    "train prm": (("preprocess", STEPS),),
    "score steps": (("preprocess", STEPS), ("train prm", f"{TRAIN_PRM} --train-iters 2 --save steps")),
}


def prepare(material: Material, command: str) -> None:
    """Make what the command reads, where it is not there yet."""
    for needed, words in _NEEDED.get(command, ()):
        made = material.directory / words.split()[-1]
        if not made.is_dir() and not any(made.parent.glob(f"{made.name}_*")):
            _run_all([(needed, words)], material.directory)


def reference(material: Material, command: str) -> dict[str, bytes]:
    """What the command writes when nothing goes wrong; it runs at the first call."""
    prepare(material, command)
    target = material.directory.parent / f"reference_{command.replace(' ', '_')}"
    if command not in material.seconds:
        started = time.monotonic()
        outcome = run(command, TRIALS[command], material.copy(target))
        material.seconds[command] = time.monotonic() - started
        assert outcome.code == 0, outcome.stderr
    return written(command, target)


def _is_of_clock(name: str) -> bool:
    return name.endswith("_per_second") or name == "matmul_share"


def written(command: str, directory: Path, *, save: str = "run") -> dict[str, bytes]:
    """The files of a command in a trial's directory, without what depends on the clock.

    Args:
        save: --save of a training.
    """
    if command in OUTPUTS:
        paths = [
            path
            for path in directory.glob(f"{OUTPUTS[command]}_*")
            if path.suffix in (".bin", ".idx", ".json")
        ]
        return {path.name: path.read_bytes() for path in paths}
    if command in ROWS:
        path = directory / ROWS[command]
        return {path.name: path.read_bytes()} if path.exists() else {}
    metrics = directory / save / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    kept = [{name: value for name, value in row.items() if not _is_of_clock(name)} for row in rows]
    last = directory / save / "iter_0000006"
    tensors = {path.name: path.read_bytes() for path in last.glob("*.distcp")}
    columns = {path.name: path.read_bytes() for path in directory.glob("pairs_packed_reference_*")}
    last_scores = {path.name: path.read_bytes() for path in directory.glob(f"{save}/scores.jsonl")}
    return {"metrics": json.dumps(kept).encode(), **tensors, **columns, **last_scores}


def remains(directory: Path) -> list[str]:
    """Names of files that a command should not leave when it ends."""
    names = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    return sorted(
        name
        for name in names
        if name.endswith((".tmp", ".old", ".lock", ".parts")) and not name.endswith("/.lock")  # of every run
    )
