"""What a step asks of the device, and what is made beside it."""

import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modellink_rm.base.errors import UserError
from modellink_rm.dataset.dataset import Dataset
from modellink_rm.dataset.reader import ExampleReader
from modellink_rm.model.flops import training_flops
from modellink_rm.objective.preference import PreferenceObjective
from modellink_rm.parallel import pipeline
from modellink_rm.train import step
from tests.distributed import Workers
from tests.parallel.conftest import GLOBAL_BATCH_SIZE, NUM_STEPS
from tests.runs import run_training, train_part

# What hands a tensor's numbers to Python, which on a GPU waits for all work before it.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2")


class CountReads(TorchDispatchMode):
    """Counts the reads of tensors while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__.split(".")[-1] in READS and not is_of_host_generator()
        return func(*args, **(kwargs or {}))


def is_of_host_generator() -> bool:
    """Whether the engine compares states of the host's random generator, which no device holds."""
    return any("tensor_parallel/random.py" in frame.filename for frame in traceback.extract_stack())


def reads_of_a_run(arguments: list[str], adds_one: bool) -> tuple[list[int], list[int]]:
    """Reads in forward and backward passes, and in the steps around them, of each step."""
    passes: list[int] = []
    steps: list[int] = []
    train_step = step.train_step
    loss = PreferenceObjective.__call__

    def counted_passes(*args: Any, **kwargs: Any) -> Any:
        with CountReads() as reads:
            kept = pipeline.forward_backward(*args, **kwargs)
        passes.append(reads.count)
        return kept

    def counted_step(*args: Any, **kwargs: Any) -> Any:
        with CountReads() as reads:
            result = train_step(*args, **kwargs)
        steps.append(reads.count)
        return result

    def reading_loss(self: Any, scores: torch.Tensor, targets: Any) -> Any:
        if adds_one:
            scores.sum().item()
        return loss(self, scores, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "forward_backward", counted_passes)
        patch.setattr("modellink_rm.train.trainer.train_step", counted_step)
        patch.setattr(PreferenceObjective, "__call__", reading_loss)
        train_part(arguments)
    return passes, steps


@pytest.mark.parametrize("flags", ["", "--hidden-dropout 0.1 --attention-dropout 0.1", "--bf16"])
@pytest.mark.parametrize("max_tokens", [60, 10000])
def test_step_reads_the_device_only_at_its_end(
    max_tokens: int, flags: str, arguments: list[str], workers: Workers
) -> None:
    words = [*arguments, *flags.split(), "--max-tokens-per-micro-batch", str(max_tokens), "--eval-iters", "0"]
    ((passes, steps),) = workers.run(reads_of_a_run, 1, words, False)
    assert passes == [0] * NUM_STEPS
    assert steps == [1] * NUM_STEPS  # of the gradient norm


def test_sequence_parallel_step_reads_the_device_only_at_its_end(
    arguments: list[str], workers: Workers
) -> None:
    words = [*arguments, "--tensor-model-parallel-size", "2", "--sequence-parallel", "--eval-iters", "0"]
    for passes, _ in workers.run(reads_of_a_run, 2, words, False):
        assert passes == [0] * NUM_STEPS


def test_read_of_a_score_is_noticed(arguments: list[str], workers: Workers) -> None:
    words = [*arguments, "--max-tokens-per-micro-batch", "10000", "--eval-iters", "0"]
    ((passes, _),) = workers.run(reads_of_a_run, 1, words, True)
    assert passes == [1] * NUM_STEPS


def flops_of_steps(arguments: list[str]) -> list[tuple[bool, float, int]]:
    """Of each step: whether this process's scores are counted, the FLOPs it reports, those of its batches."""
    found = []

    def noted_step(state: Any, micro_batches: Any, *args: Any, **kwargs: Any) -> Any:
        result = step.train_step(state, micro_batches, *args, **kwargs)
        reported = result.sums.values[result.sums.names.index("flops")].item()
        shape = state.model[0].module.spec.shape
        expected = sum(training_flops(shape, batch) for batch in micro_batches)
        found.append((kwargs["ranks"].reports_scores, reported, expected))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modellink_rm.train.trainer.train_step", noted_step)
        train_part(arguments)
    return found


def test_step_reports_the_flops_of_its_micro_batches_once(arguments: list[str], workers: Workers) -> None:
    flags = ["--pipeline-model-parallel-size", "2", "--max-tokens-per-micro-batch", "60", "--eval-iters", "0"]
    first, last = workers.run(flops_of_steps, 2, [*arguments, *flags])
    assert len(first) == len(last) == NUM_STEPS
    assert all(reported == 0 for _, reported, _ in first)
    assert all(reported == expected > 0 for _, reported, expected in last)
    assert [is_counted for is_counted, _, _ in (first[0], last[0])] == [False, True]


def test_clip_grad_0_clips_nothing(arguments: list[str], workers: Workers, tmp_path: Path) -> None:
    words = [*arguments, "--eval-iters", "0", "--clip-grad"]
    never = run_training(workers, 1, [*words, "0"], tmp_path / "never", saves=False)
    far_above = run_training(workers, 1, [*words, "1e6"], tmp_path / "far_above", saves=False)
    assert never.column("loss") == far_above.column("loss")
    assert never.column("grad_norm") == far_above.column("grad_norm")


@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_made_ahead_change_no_number(
    num_workers: int, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    one = run_training(workers, 1, arguments, tmp_path / "one", saves=False)
    other = run_training(
        workers, 1, [*arguments, "--num-workers", str(num_workers)], tmp_path / "other", saves=False
    )
    assert other.column("loss") == one.column("loss")
    assert other.column("grad_norm") == one.column("grad_norm")


def train_on_a_damaged_row(arguments: list[str], damaged: int) -> str:
    """What a run says that meets the row."""
    read = ExampleReader.read

    def damaged_read(self: ExampleReader, dataset: Dataset, row: int) -> Any:
        if row == damaged:
            raise UserError(f"row {row} has no token")
        return read(self, dataset, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExampleReader, "read", damaged_read)
        try:
            train_part(arguments)
        except UserError as error:
            return str(error)
    return "nothing"


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_damaged_row_is_reported_at_its_step(
    num_workers: int, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    row = 2 * GLOBAL_BATCH_SIZE + 1  # of the third step
    flags = f"--no-shuffle --num-workers {num_workers} --save {tmp_path}"
    (message,) = workers.run(train_on_a_damaged_row, 1, [*arguments, *flags.split()], row)
    assert message == f"row {row} has no token"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "loss" in row] == [1, 2]


def test_profile_traces_the_steps_and_ranks_asked_for(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    flags = "--profile --profile-step-start 1 --profile-step-end 3 --profile-ranks 1"
    run_training(workers, 2, [*arguments, *flags.split()], tmp_path)
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank1.pt.trace.json"]
    events = json.loads((tmp_path / "profile" / "rank1.pt.trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name == "aten::_local_scalar_dense" for name in names) >= 2  # two steps' norms
    assert sum(name.startswith("Optimizer.step") for name in names) == 2
