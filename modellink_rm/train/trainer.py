"""The run: build, load, then step, log, evaluate and save."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.files import write_whole
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform
from modellink_rm.batching.head_dropout import HeadDropout
from modellink_rm.batching.micro_batches import Packing
from modellink_rm.batching.prefetch import GlobalBatches, prefetch
from modellink_rm.checkpoint.distributed import load_train_state
from modellink_rm.checkpoint.layout import RunInfo
from modellink_rm.checkpoint.load import build_and_load_model, check_finite, check_finite_state
from modellink_rm.checkpoint.prune import Retention
from modellink_rm.checkpoint.save import CheckpointSaver
from modellink_rm.config.checkpoint import CheckpointConfig
from modellink_rm.dataset.order import order_of
from modellink_rm.model.config import Kernels
from modellink_rm.model.frozen import freeze
from modellink_rm.model.kernel_choice import check_requested_kernels, choose_kernels
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks
from modellink_rm.report.best import BestCheckpoint, kept_iterations, write_best
from modellink_rm.report.run_files import ABOUT_NAME, METRICS_NAME
from modellink_rm.train.about import about_run
from modellink_rm.train.best import BestSoFar, best_so_far, correct_best
from modellink_rm.train.data_sets import DataSets
from modellink_rm.train.evaluations import Evaluations, has_scores
from modellink_rm.train.leaving import Leaving
from modellink_rm.train.lock import check_locked
from modellink_rm.train.optimizer import (
    TrainState,
    build_optimizer,
    build_scheduler,
    synced_params,
    trained_numbers,
    use_fused_adam,
    wrap_for_training,
)
from modellink_rm.train.packing import packing_of
from modellink_rm.train.plan import RunPlan
from modellink_rm.train.profiling import StepTrace, trace_directory
from modellink_rm.train.reference import with_references
from modellink_rm.train.reporting import StepLog
from modellink_rm.train.step import StepLoss, train_step


def kernels_of(plan: RunPlan, platform: Platform) -> Kernels:
    """The kernels of a run, logged; a collective where process groups run.

    Raises:
        AgreedError: what is requested does not work here.
    """
    config = plan.config
    return choose_kernels(
        config.kernels,
        platform,
        shape=plan.model.spec.shape,
        dtype=config.precision.dtype,
        dropout=config.model.attention_dropout,
        num_steps=plan.train_iters,
    )


def check_kernels(plan: RunPlan, platform: Platform) -> None:
    """Check what can be known of the run's kernels before its process groups start.

    Raises:
        UserError: what is requested does not work here.
    """
    config = plan.config
    check_requested_kernels(
        config.kernels,
        platform,
        shape=plan.model.spec.shape,
        dtype=config.precision.dtype,
        dropout=config.model.attention_dropout,
    )


def train(
    plan: RunPlan,
    platform: Platform,
    kernels: Kernels,
    ranks: Ranks,
    *,
    started: float | None = None,
) -> TrainState:
    """Train from the current step to the last one; a collective over all processes.

    Args:
        started: when the command began, by `time.monotonic`; now by default.
    """
    config = plan.config
    started = time.monotonic() if started is None else started
    with Leaving(config.training, world_size=ranks.world_size, started=started) as leaving:
        chunks = build_chunks(plan, kernels, ranks)
        packing = packing_of(plan, chunks, platform, ranks)
        plan = with_references(plan, chunks, packing=packing, platform=platform, ranks=ranks)
        state = train_state_of(plan, chunks, ranks)
        best = _best_so_far(plan, state, ranks)
        state.is_stopped = best is not None and best.is_exhausted
        if ranks.rank == 0 and config.checkpoint.save is not None:
            correct_best(Path(config.checkpoint.save), state.iteration, best)
        if state.iteration >= plan.train_iters or state.is_stopped:
            reached = f"{state.iteration} of {plan.train_iters}"
            why = "was stopped early" if state.is_stopped else "is already"
            info(f"nothing is left to do: the run {why} at iteration {reached}")
            _write_scores_if_missing(plan, state, packing, platform, ranks)
        else:
            _take_steps(plan, state, packing, platform, ranks, leaving, best)
    return state


def _write_scores_if_missing(
    plan: RunPlan, state: TrainState, packing: Packing, platform: Platform, ranks: Ranks
) -> None:
    """Write the scores after training, of a run that was killed between its last checkpoint and these.

    A collective over all processes.
    """
    save_to = plan.config.checkpoint.save
    if save_to is None or has_scores(Path(save_to), state.iteration, rank=ranks.rank):
        return
    with StepLog(plan, state, platform) as log:
        evaluations = Evaluations(
            plan, state, log, None, packing=packing, ranks=ranks, device=platform.device
        )
        evaluations.evaluate()
        evaluations.write_scores()


def _take_steps(
    plan: RunPlan,
    state: TrainState,
    packing: Packing,
    platform: Platform,
    ranks: Ranks,
    leaving: Leaving,
    best: BestSoFar | None,
) -> None:
    """Step, log, evaluate and save to the end, or until the run is to be left or no longer improves."""
    config = plan.config
    loss = StepLoss(objective=plan.objective, counts_examples=ranks.cp_rank == 0)
    data = _global_batches(plan, packing, ranks, platform)
    data_sets = DataSets(plan.blend.train)
    reporting, checkpoint = config.reporting, config.checkpoint
    traces = trace_directory(reporting.tensorboard_dir, checkpoint.save)
    with (
        prefetch(data.after, _samples_before_steps(plan, state), config.data.num_workers) as batches,
        StepTrace(reporting, traces, ranks.rank) as trace,
        StepLog(plan, state, platform) as log,
        open_saver(checkpoint, ranks) as saver,
    ):
        _write_about(plan, platform, ranks)
        evaluations = Evaluations(
            plan, state, log, best, packing=packing, ranks=ranks, device=platform.device
        )
        if state.iteration == 0:
            with log.paused():
                evaluations.make()
                evaluations.write_scores()
        for micro_batches in batches:
            trace.before_step(state.iteration)
            learning_rate = current_learning_rate(state)
            result = train_step(
                state,
                micro_batches,
                loss,
                num_examples=plan.batch_size,
                ranks=ranks,
                device=platform.device,
                before_update=saver.before_update,
                data_sets=data_sets,
            )
            trace.after_step(state.iteration)
            saver.after_step()
            check_locked(checkpoint.save)
            is_last = state.iteration == plan.train_iters
            reason = leaving.after_step(state.iteration)
            ends = is_last or reason is not None
            log.step(result.sums, grad_norm=result.grad_norm, learning_rate=learning_rate, ends=ends)
            with log.paused():
                is_due = _is_due(state.iteration, config.training.eval_interval, is_last)
                improves = is_due and evaluations.make(is_last=is_last)
                ends = ends or state.is_stopped
                if checkpoint.save and _is_due(state.iteration, checkpoint.save_interval, ends or improves):
                    save(plan, state, saver, ranks, best.best if improves and best is not None else None)
                if is_last or state.is_stopped:
                    saver.finish()  # the checkpoint matters more on a full disk
                    evaluations.write_scores()
            if ends and not is_last:
                saver.finish()
                info(_why_left(plan, state, best, reason))
                break


def _why_left(plan: RunPlan, state: TrainState, best: BestSoFar | None, reason: str | None) -> str:
    where = f"after iteration {state.iteration} of {plan.train_iters}"
    if state.is_stopped:
        assert best is not None
        value = "" if best.best is None else f" than {best.best.value:.4f} at iteration {best.best.iteration}"
        return f"stopped {where}: {best.num_worse} evaluations with no better {best.metric}{value}"
    saves = plan.config.checkpoint.save
    advice = "--auto-resume continues" if saves else "nothing is kept without --save"
    return f"left {where} ({reason}); {advice}"


def _best_so_far(plan: RunPlan, state: TrainState, ranks: Ranks) -> BestSoFar | None:
    """The best evaluation up to now; None without --save-best."""
    if plan.best_metric is None:
        return None
    assert plan.config.checkpoint.save is not None
    return best_so_far(
        plan.best_metric,
        patience=plan.config.training.early_stopping_patience,
        metrics_file=Path(plan.config.checkpoint.save) / METRICS_NAME,
        resumed_iteration=state.iteration,
        rank=ranks.rank,
    )


def _write_about(plan: RunPlan, platform: Platform, ranks: Ranks) -> None:
    if ranks.rank == 0 and plan.config.checkpoint.save is not None:
        write_whole(Path(plan.config.checkpoint.save) / ABOUT_NAME, about_run(plan, platform, ranks))


def _global_batches(plan: RunPlan, packing: Packing, ranks: Ranks, platform: Platform) -> GlobalBatches:
    """This replica's part of every global batch of the run."""
    config = plan.config
    order = order_of(plan.blend.mixture, shuffle=config.data.shuffle, seed=config.training.seed)
    return GlobalBatches(
        part=plan.blend.train,
        order=order,
        batch_size=plan.batch_size,
        packing=packing,
        ranks=ranks,
        platform=platform,
        head_dropout=_head_dropout(plan),
    )


def _head_dropout(plan: RunPlan) -> HeadDropout | None:
    rate, seed = plan.config.model.head_dropout, plan.config.training.seed
    hidden_size = plan.model.shape.hidden_size
    return HeadDropout(rate=rate, hidden_size=hidden_size, seed=seed) if rate else None


def _samples_before_steps(plan: RunPlan, state: TrainState) -> range:
    """The number of samples consumed before each remaining step."""
    num_steps = plan.train_iters - state.iteration
    first = state.consumed_samples
    return range(first, first + num_steps * plan.batch_size, plan.batch_size)


def build_train_state(plan: RunPlan, kernels: Kernels, ranks: Ranks) -> TrainState:
    """Model, optimizer and schedule, with what the run starts from or continues with loaded."""
    return train_state_of(plan, build_chunks(plan, kernels, ranks), ranks)


def build_chunks(plan: RunPlan, kernels: Kernels, ranks: Ranks) -> list[RewardModel]:
    """The model with the weights that the run starts from; those of a run that is continued come later."""
    config = plan.config
    return build_and_load_model(
        plan.model,
        model=config.model,
        parallel=config.parallel,
        precision=config.precision,
        kernels=kernels,
        seed=config.training.seed,
        ranks=ranks,
        loads=not plan.continues,
        verifies=config.checkpoint.verify_checksums,
    )


def train_state_of(plan: RunPlan, chunks: Sequence[RewardModel], ranks: Ranks) -> TrainState:
    """The state of a run around its model, with what the run continues with loaded."""
    config, source = plan.config, plan.model.source
    if config.training.num_trained_layers is not None:
        freeze(chunks, num_trained_layers=config.training.num_trained_layers)
    if plan.model.spec.lora is not None:
        info(f"adapters: {plan.model.spec.lora}; {trained_numbers(chunks)}")
    wrapped = wrap_for_training(chunks, optim=config.optim, precision=config.precision)
    optimizer = build_optimizer(wrapped, optim=config.optim, precision=config.precision)
    scheduler = build_scheduler(optimizer, config.optim, plan.length.schedule, plan.length.wsd_decay)
    state = TrainState(wrapped, optimizer, scheduler)
    if source.checkpoint is not None and plan.continues:
        progress = load_train_state(
            wrapped,
            optimizer,
            scheduler,
            source.checkpoint,
            load_optim=config.checkpoint.load_optim,
            load_rng=config.checkpoint.load_rng,
            ranks=ranks,
            verifies=config.checkpoint.verify_checksums,
        )
        check_finite([chunk.module for chunk in wrapped], source.name)
        check_finite_state(optimizer, source.name)
        use_fused_adam(optimizer)
        state.iteration, state.consumed_samples = progress.iteration, progress.consumed_samples
        info(f"continuing after iteration {state.iteration} of {source.checkpoint.path}")
    return state


def current_learning_rate(state: TrainState) -> float:
    """The learning rate of the next step."""
    groups = state.optimizer.param_groups
    # The head's group is one of its own, with the same rate; where only the head is trained, the only one.
    return float(min(groups, key=lambda group: not group.get("default_config", True))["lr"])


def open_saver(config: CheckpointConfig, ranks: Ranks) -> CheckpointSaver:
    """What writes the checkpoints of a run; a collective."""
    retention = Retention(keep_last=config.keep_last, interval=config.save_retain_interval)
    return CheckpointSaver(
        Path(config.save or "."), ranks, in_background=config.async_save, retention=retention
    )


def save(
    plan: RunPlan,
    state: TrainState,
    saver: CheckpointSaver,
    ranks: Ranks,
    best: BestCheckpoint | None = None,
) -> None:
    """Write a checkpoint of the run, or begin to.

    Args:
        best: given where it is the best so far.
    """
    run = RunInfo(
        iteration=state.iteration,
        spec=plan.model.spec,
        parallel_sizes=ranks.sizes,
        config=dataclasses.asdict(plan.config),
        consumed_samples=state.consumed_samples,
        schedule=plan.length.schedule,
        data=plan.fingerprints,
        held_out=plan.held_out_files,
        base=plan.model.source.reference if plan.model.spec.lora is not None else None,
    )

    def when_whole() -> frozenset[int]:
        root = Path(plan.config.checkpoint.save or ".")
        if best is not None:
            write_best(root, best)
            info(f"best so far: {best.metric} {best.value:.4f} at iteration {best.iteration}")
        return kept_iterations(root)

    with synced_params(state.model):
        saver.save(
            chunks=state.model,
            optimizer=state.optimizer,
            scheduler=state.scheduler,
            run=run,
            info_files=plan.info_files,
            when_whole=when_whole,
        )


def _is_due(iteration: int, interval: int | None, is_last: bool) -> bool:
    return is_last or bool(interval and iteration % interval == 0)
