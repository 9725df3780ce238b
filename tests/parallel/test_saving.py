"""Saving: each process writes its share, in the background too; whole on all processes or not at all."""

import errno
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.checkpoint.layout import latest_checkpoint
from tests.distributed import Workers
from tests.marks import full
from tests.parallel.conftest import NUM_STEPS
from tests.runs import run_training, train_part

DISTRIBUTED = "--use-distributed-optimizer"
TP2_PP2 = "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"


def tensors_of(directory: Path) -> dict[str, bytes]:
    """What the files of tensors of a run's checkpoints hold."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.glob("iter_*/*.distcp")}


@pytest.mark.parametrize(
    ("world_size", "flags"),
    [
        (2, f"{DISTRIBUTED} --bf16"),
        full(1, ""),
        full(2, f"{DISTRIBUTED} --overlap-grad-reduce --overlap-param-gather"),
        full(4, TP2_PP2),
    ],
)
def test_saves_in_the_background_write_the_same_bytes(
    world_size: int, flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    words = [*arguments, *flags.split(), "--save-interval", "1"]
    run_training(workers, world_size, words, tmp_path / "now")
    after = run_training(workers, world_size, [*words, "--async-save"], tmp_path / "later")
    written = tensors_of(tmp_path / "later")
    assert len({name.split("/")[0] for name in written}) == NUM_STEPS
    assert written == tensors_of(tmp_path / "now")
    assert not list(tmp_path.rglob("*.tmp"))
    # A resume from the first of them ends with the same bytes.
    (tmp_path / "later" / "latest_checkpointed_iteration.txt").write_text("1\n")
    resumed = run_training(workers, world_size, [*words, "--async-save", "--auto-resume"], tmp_path / "later")
    assert tensors_of(tmp_path / "later") == written
    assert resumed.column("loss") == after.column("loss")


def train_while_a_file_waits(argv: list[str], save: str) -> list[list[str]]:
    """What a rank finds under --save after each step, while the last rank's files wait for step 6."""
    from modellink_rm.checkpoint.save import CheckpointSaver
    from modellink_rm.checkpoint.writer import TensorWriter

    after_step, write = CheckpointSaver.after_step, TensorWriter.write
    sixth_step = threading.Event()
    found: list[list[str]] = []

    def held_write(writer: TensorWriter) -> None:
        if os.environ["RANK"] == "1":
            assert sixth_step.wait(60)
        write(writer)

    def look(saver: CheckpointSaver) -> None:
        after_step(saver)
        found.append(sorted(path.name for path in Path(save).glob("iter_*")))
        if len(found) == 6:
            sixth_step.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorWriter, "write", held_write)
        patch.setattr(CheckpointSaver, "after_step", look)
        train_part([*argv, "--save", save])
    return found


def test_the_training_goes_on_and_the_checkpoint_appears_when_it_is_whole_on_all_processes(
    arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    words = [*arguments, "--async-save", "--save-interval", "4", "--train-iters", "7"]
    found = workers.run(train_while_a_file_waits, 2, words, str(tmp_path))[0]
    assert found[:6] == [[], [], [], [], ["iter_0000004.tmp"], ["iter_0000004.tmp"]]
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000004", "iter_0000007"]


def fail_to_write(argv: list[str], save: str, failing_rank: str) -> str:
    """What a rank says of a run whose second checkpoint one rank cannot write."""
    from modellink_rm.checkpoint.save import CheckpointNotWrittenError
    from modellink_rm.checkpoint.writer import TensorWriter

    write, calls = TensorWriter.write, Counter[str]()

    def failing(writer: TensorWriter) -> None:
        calls["write"] += 1
        if calls["write"] == 2 and os.environ["RANK"] == failing_rank:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorWriter, "write", failing)
        try:
            train_part([*argv, "--save", save])
        except CheckpointNotWrittenError as error:
            return str(error)
    return ""


@pytest.mark.parametrize(("rank", "flags"), [("1", "--async-save"), full("0", "--async-save"), full("1", "")])
def test_a_writer_that_fails_ends_the_run_in_one_line_and_leaves_the_checkpoint_before(
    rank: str, flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    words = [*arguments, *flags.split(), "--save-interval", "1"]
    told = workers.run(fail_to_write, 2, words, str(tmp_path), rank)
    line = f"the checkpoint {tmp_path}/iter_0000002 could not be written: no space left on device; free some"
    assert [text[: len(line)] for text in told] == [line, line]
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000001"
    assert not list(tmp_path.glob("iter_0000002*"))


def train_with_a_best(argv: list[str]) -> list[bool]:
    """Whether each checkpoint had its name when the saver said so; the first one is always to be kept."""
    from modellink_rm.checkpoint.save import CheckpointSaver

    save, found = CheckpointSaver.save, []

    def save_best(saver: CheckpointSaver, **values: Any) -> Path:
        def when_whole() -> set[int]:
            found.append(path.is_dir())
            return {1}

        path = Path(argv[-1], f"iter_{values['run'].iteration:07d}")
        return save(saver, **{**values, "when_whole": when_whole})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointSaver, "save", save_best)
        train_part(argv)
    return found


@pytest.mark.parametrize("flags", ["", full("--async-save")])
def test_only_what_is_to_be_kept_is_left(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    words = [*arguments, "--save-interval", "1", "--keep-last", "1", "--save-retain-interval", "2"]
    found = workers.run(train_with_a_best, 1, [*words, *flags.split(), "--save", str(tmp_path)])[0]
    assert found == [True] * NUM_STEPS
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == [
        "iter_0000001",
        "iter_0000002",
        "iter_0000004",
    ]
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_0000004"


@pytest.mark.full
@pytest.mark.parametrize("flags", [DISTRIBUTED, ""])
def test_replicas_write_equal_shares(
    flags: str, arguments: list[str], workers: Workers, tmp_path: Path
) -> None:
    run_training(workers, 4, [*arguments, *flags.split(), "--micro-batch-size", "1"], tmp_path)
    sizes: Counter[str] = Counter()
    for path in (tmp_path / f"iter_{NUM_STEPS:07d}").glob("*.distcp"):
        sizes[path.name.split("_")[2]] += path.stat().st_size
    assert len(sizes) == 4
    assert max(sizes.values()) < 1.3 * sum(sizes.values()) / 4
