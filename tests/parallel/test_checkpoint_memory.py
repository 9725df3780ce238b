"""Memory of saving and loading a checkpoint, per process, against its share of the state."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import Workers
from tests.tiny_data import write_tokenizer
from tests.tiny_models import write_tiny_llama

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
NUM_REPLICAS = 4
# 12.6 million parameters: 50 MB, and with AdamW's state in float32 200 MB.
SHAPE: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4}


@pytest.fixture(scope="module")
def flags(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("larger")
    write_tiny_llama(directory, value_head=True, **SHAPE)
    write_tokenizer(directory)
    return [*arguments, "--load", str(directory), "--save-interval", "1", "--global-batch-size", "8"]


def growth(function: Callable[[], object]) -> int:
    """By how many bytes the memory of this process rises, at most, while it calls a function."""
    Path("/proc/self/clear_refs").write_text("5")  # what is the most so far is what is now
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def memory_of_saving_and_loading(argv: list[str], save: str) -> list[int]:
    """By how many bytes the memory of a rank rises in a save, one in the background, and a load."""
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.checkpoint.distributed import load_train_state
    from modellink_rm.checkpoint.layout import read_checkpoint_info
    from modellink_rm.checkpoint.save import CheckpointSaver
    from modellink_rm.commands.train import run_config
    from modellink_rm.parallel.groups import process_groups
    from modellink_rm.train import trainer
    from modellink_rm.train.plan import plan_run

    config = run_config([*argv, "--save", save])
    plan = plan_run(config, world_size=NUM_REPLICAS)
    platform = detect_platform()
    with process_groups(config.parallel, platform, seed=1) as ranks:
        state = trainer.build_train_state(plan, trainer.kernels_of(plan, platform), ranks)
        state.optimizer.prepare_grads()
        state.optimizer.step_with_ready_grads()  # of no gradient: for the moments
        found = []
        for background in (False, True):
            state.iteration += 1
            with CheckpointSaver(Path(save), ranks, in_background=background) as saver:

                def save_all(saver: CheckpointSaver = saver) -> None:
                    trainer.save(plan, state, saver, ranks)
                    saver.finish()

                found.append(growth(save_all))
        checkpoint = read_checkpoint_info(Path(save, "iter_0000001"))

        def load() -> None:
            load_train_state(
                state.model,
                state.optimizer,
                state.scheduler,
                checkpoint,
                load_optim=True,
                load_rng=True,
                ranks=ranks,
            )

        return [*found, growth(load)]


@pytest.mark.parametrize("optimizer", ["--use-distributed-optimizer", "--bf16", ""])
def test_a_process_takes_at_most_its_share_of_the_state_again(
    optimizer: str, flags: list[str], workers: Workers, tmp_path: Path
) -> None:
    found = workers.run(
        memory_of_saving_and_loading, NUM_REPLICAS, [*flags, *optimizer.split()], str(tmp_path)
    )
    total = sum(path.stat().st_size for path in (tmp_path / "iter_0000001").glob("*.distcp"))
    share = total / NUM_REPLICAS
    ratios = [[rise / share for rise in one] for one in found]
    print(f"{optimizer}: share {share / 1e6:.1f} MB; saving, in the background, loading: {ratios}")
    assert max(max(one) for one in ratios) < 1.3
