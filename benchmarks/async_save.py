"""What saving costs the steps beside it: a run of the trainer whose steps are timed one by one.

    python -m benchmarks.async_save --work DIR [--in-foreground]

Steps with a save beside them, from its start to the checkpoint's name, alternate with steps without one,
whose median they are compared with. Words after `--` go to the trainer.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from modellink_rm.checkpoint.save import CheckpointSaver
from modellink_rm.commands.train import run_config
from modellink_rm.train import trainer
from modellink_rm.train.run import train_model
from tests.tiny_data import write_random_rows, write_tokenizer
from tests.tiny_models import write_tiny_llama

# 25 million parameters: 0.4 GB with AdamW's state in float32.
SHAPE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
NUM_PAIRS, INTERVAL, NUM_SAVES = 32, 6, 4


@dataclass(frozen=True)
class Step:
    """A step of the run, with what follows it up to the next.

    Attributes:
        seconds: of the wall.
        processor_seconds: of the thread that trains, which other programs do not change.
        has_save: whether a checkpoint was being written.
    """

    seconds: float
    processor_seconds: float
    has_save: bool


class TimedSaver(CheckpointSaver):
    """Notes when each step ends, and whether a save was under way since the step before."""

    steps: ClassVar[list[Step]] = []

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._before = time.perf_counter(), time.thread_time()
        self._has_save = False

    def save(self, **values: Any) -> Path:
        self._has_save = True
        return super().save(**values)

    def after_step(self) -> None:
        super().after_step()
        now = time.perf_counter(), time.thread_time()
        seconds, processor_seconds = (after - before for after, before in zip(now, self._before, strict=True))
        self.steps.append(Step(seconds, processor_seconds, self._has_save))
        self._before, self._has_save = now, self.is_saving


def main(argv: Sequence[str]) -> int:
    """Run and print; the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--in-foreground", action="store_true", help="without --async-save")
    flags = parser.parse_args(argv[:at])
    write_tiny_llama(flags.work / "model", value_head=True, **SHAPE)
    write_tokenizer(flags.work / "model")
    write_random_rows(flags.work / "pairs", NUM_PAIRS)
    words = f"--stage rm --is-pairwise-dataset --load {flags.work}/model --load-checkpoint-loosely "
    words += f"--data-path {flags.work}/pairs --split 100,0,0 --seq-length 48 "
    words += f"--global-batch-size {NUM_PAIRS} --save {flags.work}/run --keep-last 1 "
    words += f"--save-interval {INTERVAL} "
    words += f"--train-iters {INTERVAL * (NUM_SAVES + 1)}"
    background = [] if flags.in_foreground else ["--async-save"]
    trainer.CheckpointSaver = TimedSaver  # type: ignore[misc]
    train_model(run_config([*words.split(), *background, *argv[at + 1 :]]))
    steps = TimedSaver.steps[2:]  # what is compiled or allocated is by then
    for name in ("seconds", "processor_seconds"):
        alone = statistics.median(getattr(step, name) for step in steps if not step.has_save)
        beside = [getattr(step, name) for step in steps if step.has_save]
        more = sum(beside) - len(beside) * alone
        share = 100 * more / (len(beside) * alone)
        print(f"{name}: {alone:.2f} a step without a save; {len(beside)} steps beside {NUM_SAVES} saves took")
        print(f"    {more / NUM_SAVES:.2f} a save more, {share:.1f} % of that")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
