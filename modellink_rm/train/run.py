"""A whole training run as one call, for the command and for Python."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modellink_rm.base import engine_import  # noqa: F401 (before what needs the engine)
from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, detect_platform
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.checkpoint.prune import remove_unfinished
from modellink_rm.config.places import flags_of_all
from modellink_rm.config.run import RunConfig
from modellink_rm.parallel.agreement import check_agreed
from modellink_rm.parallel.failures import ending_together
from modellink_rm.parallel.groups import Ranks, of_every_process, process_groups, world_size_from_environment
from modellink_rm.train.lock import locked
from modellink_rm.train.memory import warn_of_memory
from modellink_rm.train.plan import RunPlan, newest_under_save, plan_run
from modellink_rm.train.reference import weights_fingerprint
from modellink_rm.train.trainer import check_kernels, kernels_of, train


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a run ended.

    Attributes:
        checkpoint: the newest under --save; None without --save.
        is_done: False where it was left before its last step, on a signal say.
    """

    checkpoint: Path | None
    is_done: bool


def train_model(config: RunConfig) -> Path | None:
    """The newest checkpoint under --save when the run is done, or left early; None without --save.

    A single process starts and ends its process groups itself; under torchrun every process calls this with
    the same flags. There, an error that one rank alone meets ends that process with a line, since the others
    wait for it in an exchange; they end too.

    Raises:
        UserError: the flags, the weights, the tokenizer or the data cannot work.
        NonFiniteError: a loss or a gradient was not finite.
    """
    return run(config).checkpoint


def run(config: RunConfig) -> RunEnd:
    """Plan and train, alone or as a process of a torchrun.

    Raises:
        UserError: the flags, the weights, the tokenizer or the data cannot work.
        NonFiniteError: a loss or a gradient was not finite.
    """
    started = time.monotonic()
    world_size = world_size_from_environment()
    end_with_launcher()
    plan = plan_run(config, world_size=world_size)
    platform = platform_of(config)
    check_kernels(plan, platform)
    with (
        locked(config.checkpoint.save),
        process_groups(config.parallel, platform, seed=config.training.seed) as ranks,
        ending_together(),
    ):
        if config.checkpoint.save is not None and ranks.rank == 0:
            remove_unfinished(Path(config.checkpoint.save))
        plan = _plan_under_lock(plan, config, ranks)
        if world_size > 1:
            check_agreed(_of_all(plan))
        kernels = kernels_of(plan, platform)
        warn_of_memory(
            plan, platform, world_size=world_size, compiles_elementwise=kernels.compiles_elementwise
        )
        state = train(plan, platform, kernels, ranks, started=started)
        is_done = state.iteration >= plan.train_iters or state.is_stopped
        return RunEnd(checkpoint=newest_under_save(config.checkpoint), is_done=is_done)


def _of_all(plan: RunPlan) -> dict[str, Any]:
    """What the run of every process must have alike: flags, data, tokenizer, template and weights."""
    config, source = plan.config, plan.model.source
    return {
        "--save": config.checkpoint.save is not None,
        **flags_of_all(*(getattr(config, field.name) for field in dataclasses.fields(config))),
        "data of --data-path": [one["files"] for one in plan.fingerprints],
        "data of --valid-data-path": plan.held_out_files,
        "tokenizer": plan.tokenizer.fingerprint,
        "template": plan.info_files[CONTRACT_NAME],
        # Those of a checkpoint are compared when it is loaded.
        "weights of --load": source.hugging_face and weights_fingerprint(source),
    }


def platform_of(config: RunConfig) -> Platform:
    """This process's device, set up for the run.

    Raises:
        UserError: there is no GPU for this process, or torch finds none though the machine has one.
    """
    return detect_platform(
        config.parallel.distributed_backend,
        tensor_parallel_size=config.parallel.tensor_model_parallel_size,
        deterministic=config.kernels.deterministic,
    )


def _plan_under_lock(plan: RunPlan, config: RunConfig, ranks: Ranks) -> RunPlan:
    """The plan, made again where --save has changed since: another run held it. A collective.

    The first process, which has the lock, says which checkpoint is the newest.

    Raises:
        AgreedError: the run cannot be planned so any more, or the processes do not see the same --save.
    """
    if config.checkpoint.save is None:
        return plan
    newest = newest_under_save(config.checkpoint) if ranks.rank == 0 else None
    newest = of_every_process(newest)[0]
    if not any(of_every_process(plan.existing != newest)):
        return plan
    info(f"--save {config.checkpoint.save} was changed by another run meanwhile: the run is planned again")
    try:
        plan = plan_run(config, world_size=ranks.world_size)
    except UserError as error:
        raise AgreedError(str(error)) from None
    if any(of_every_process(plan.existing != newest)):
        raise AgreedError(
            f"the processes do not see the same files in --save {config.checkpoint.save}: it must be a "
            "directory that all of them share"
        )
    return plan
