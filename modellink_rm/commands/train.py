"""pretrain_rm.py: train a reward model on preprocessed pairs."""

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from modellink_rm.base.errors import UserError, file_error_message, print_error
from modellink_rm.base.files import exclusive
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import is_first_process, set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.config.data import DataConfig
from modellink_rm.config.ignored import IGNORED_TRAINER_FLAGS
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.config.run import RunConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.config.training import TrainingConfig

GROUPS = {  # in the order of --help
    "training": TrainingConfig,
    "data": DataConfig,
    "checkpoint": CheckpointConfig,
    "optim": OptimConfig,
    "parallel": ParallelConfig,
    "precision": PrecisionConfig,
    "reporting": ReportingConfig,
    "model": ModelConfig,
    "tokenizer": TokenizerConfig,
    "kernels": KernelConfig,
}


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the run is done, 1 when a loss or gradient was not finite.

    Raises:
        UserError: the flags, the weights, the tokenizer or the data cannot work.
    """
    set_up_logging()
    config = run_config(argv)
    # Everything below needs torch, which takes seconds to import: a wrong flag is told at once.
    from modellink_rm.base.platform import detect_platform
    from modellink_rm.checkpoint.distributed import CheckpointNotWrittenError
    from modellink_rm.parallel.groups import process_groups, world_size_from_environment
    from modellink_rm.train.plan import plan_run
    from modellink_rm.train.step import NonFiniteError
    from modellink_rm.train.trainer import kernels_of, train

    plan = plan_run(config, world_size=world_size_from_environment())
    platform = detect_platform(config.parallel.distributed_backend)
    kernels = kernels_of(plan, platform)
    with (
        _lock(config.checkpoint.save),
        process_groups(config.parallel, platform, seed=config.training.seed) as ranks,
    ):
        try:
            train(plan, platform, kernels, ranks)
        except NonFiniteError as error:
            print_error(str(error))
            return 1
        except CheckpointNotWrittenError:
            raise
        except (UserError, OSError) as error:  # of this rank's rows or files: no other may have met it
            message = file_error_message(error) if isinstance(error, OSError) else str(error)
            if ranks.world_size == 1 or message is None:
                raise
            print(f"error (rank {ranks.rank}): {message}", file=sys.stderr, flush=True)
            os._exit(2)  # the others wait for it in an exchange; the launcher ends them
    return 0


def _lock(save: str | None) -> AbstractContextManager[object]:
    """Keep other runs out of --save, from the first process."""
    if save is None or not is_first_process():
        return nullcontext()
    return exclusive(Path(save) / ".lock", f"--save {save} is in use by another run; give another one")


def run_config(argv: Sequence[str]) -> RunConfig:
    """The groups of flags on the command line.

    Raises:
        UserError: an unknown flag, or a value that its group refuses.
    """
    parsed = parse_flags(
        argv,
        tuple(GROUPS.values()),
        prog="pretrain_rm.py",
        description="Train a reward model on preference pairs, under torchrun or as one process.",
        usage="--stage rm --is-pairwise-dataset --data-path PREFIX --train-iters N \\\n"
        "    --load DIR --save DIR",
        example="torchrun --standalone --nproc_per_node 2 pretrain_rm.py --stage rm \\\n"
        "    --is-pairwise-dataset --data-path data/pairs --train-iters 500 --load llama-2-7b-hf \\\n"
        "    --load-checkpoint-loosely --tensor-model-parallel-size 2 --save checkpoints/llama2",
        ignored=IGNORED_TRAINER_FLAGS,
    )
    return RunConfig(**{name: parsed[group] for name, group in GROUPS.items()})


COMMANDS.add(Command(summary="train a reward model (also under torchrun -m)", main=main), "train")
