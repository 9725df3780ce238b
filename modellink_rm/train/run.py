"""A whole training run as one call, for the command and for Python."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from modellink_rm.base.errors import UserError, file_error_message
from modellink_rm.base.files import exclusive
from modellink_rm.base.log import is_first_process
from modellink_rm.base.platform import detect_platform
from modellink_rm.checkpoint.distributed import CheckpointNotWrittenError
from modellink_rm.checkpoint.layout import latest_checkpoint
from modellink_rm.config.run import RunConfig
from modellink_rm.parallel.groups import process_groups, world_size_from_environment
from modellink_rm.train.plan import plan_run
from modellink_rm.train.trainer import kernels_of, train


def train_model(config: RunConfig) -> Path | None:
    """The newest checkpoint under --save when the run is done; None without --save.

    A single process starts and ends its process groups itself; under torchrun every process calls this with
    the same flags. There, an error that one rank alone meets ends that process with exit code 2, since the
    others wait for it in an exchange; the launcher ends them.

    Raises:
        UserError: the flags, the weights, the tokenizer or the data cannot work.
        NonFiniteError: a loss or a gradient was not finite.
    """
    plan = plan_run(config, world_size=world_size_from_environment())
    platform = detect_platform(config.parallel.distributed_backend)
    kernels = kernels_of(plan, platform)
    save = config.checkpoint.save
    with (
        _lock(save),
        process_groups(config.parallel, platform, seed=config.training.seed) as ranks,
    ):
        try:
            train(plan, platform, kernels, ranks)
        except CheckpointNotWrittenError:
            raise
        except (UserError, OSError) as error:  # of this rank's rows or files: no other may have met it
            message = file_error_message(error) if isinstance(error, OSError) else str(error)
            if ranks.world_size == 1 or message is None:
                raise
            print(f"error (rank {ranks.rank}): {message}", file=sys.stderr, flush=True)
            os._exit(2)  # the others wait for it in an exchange; the launcher ends them
    return latest_checkpoint(Path(save)) if save is not None else None


def _lock(save: str | None) -> AbstractContextManager[object]:
    """Keep other runs out of --save, from the first process."""
    if save is None or not is_first_process():
        return nullcontext()
    return exclusive(Path(save) / ".lock", f"--save {save} is in use by another run; give another one")
