"""The engine's gradient buffers, AdamW and schedule around a model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    ParamKey,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from modellink_rm.base.log import info
from modellink_rm.base.megatron_compat import single_optimizers
from modellink_rm.base.platform import is_cpu
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.model.reward_model import RewardModel


@dataclass
class TrainState:
    """Everything that a step changes and that a checkpoint stores.

    Attributes:
        model: this process's stage, or its virtual stages if stages are interleaved.
        iteration: number of steps so far.
        consumed_samples: number of examples (pairs) in those steps.
        is_stopped: whether --early-stopping-patience ended the run; not stored, since metrics.jsonl says it.
    """

    model: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    iteration: int = 0
    consumed_samples: int = 0
    is_stopped: bool = False


def wrap_for_training(
    chunks: Sequence[RewardModel], *, optim: OptimConfig, precision: PrecisionConfig
) -> list[DistributedDataParallel]:
    """The model with the engine's gradient buffers; gradients are summed in float32."""
    config, is_interleaved = chunks[0].config, len(chunks) > 1
    is_divided = optim.divides_state(precision)
    by_itself = _overlaps_by_itself(chunks[0], optim)
    reduces = optim.overlap_grad_reduce or by_itself
    gathers = optim.overlap_param_gather or (by_itself and is_divided)
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=is_divided,
        overlap_grad_reduce=reduces,
        overlap_param_gather=gathers,
        align_param_gather=is_interleaved,  # the schedule starts it for a whole chunk
    )
    # Without Megatron-LM's `disable_bucketing` of later chunks, which gathers a float32 head and bf16
    # layers in one call: gloo silently mixes them up.
    wrapped = [DistributedDataParallel(config, ddp_config, chunk) for chunk in chunks]
    config.finalize_model_grads_func = finalize_gradient_sums
    if reduces:
        config.no_sync_func = [chunk.no_sync for chunk in wrapped] if is_interleaved else wrapped[0].no_sync
    if gathers and is_interleaved:
        config.param_sync_func = [chunk.start_param_sync for chunk in wrapped]
    return wrapped


def trained_numbers(chunks: Sequence[RewardModel]) -> str:
    """How many numbers of this process are trained, in words."""
    sizes = [(one.numel(), one.requires_grad) for chunk in chunks for one in chunk.parameters()]
    in_4_bits = sum(math.prod(matrix.shape) for chunk in chunks for _, matrix in chunk.quantized_weights())
    total = sum(size for size, _ in sizes) + in_4_bits
    trained = sum(size for size, is_trained in sizes if is_trained)
    return f"{trained:,} of {total:,} numbers of a process are trained ({trained / total:.2%})"


def _overlaps_by_itself(chunk: RewardModel, optim: OptimConfig) -> bool:
    """Whether messages of several replicas are hidden behind computation without being asked for: on GPUs.

    Not with experts: one without tokens would leave its messages to the end.
    """
    weight = next(chunk.parameters())
    has_replicas = parallel_state.get_data_parallel_world_size(with_context_parallel=True) > 1
    return optim.overlap and not is_cpu(weight.device) and has_replicas and chunk.spec.shape.experts is None


def finalize_gradient_sums(model: list[Any], num_examples: Any, **groups: Any) -> None:
    """Sum the gradients over processes; called by the engine's schedules.

    As the engine's `finalize_model_grads`, but for its division by the number of examples: it would wait for
    the device to read that, and `forward_backward` knows it.
    """
    finalize_model_grads(model, None, **groups)


@contextmanager
def synced_params(model: Sequence[DistributedDataParallel]) -> Iterator[None]:
    """A block in which every process holds all updated weights, and forward passes gather none.

    With --overlap-param-gather the weights of a step are gathered during the next forward pass.
    """
    chunks = [chunk for chunk in model if chunk.ddp_config.overlap_param_gather]
    for chunk in chunks:
        chunk.disable_forward_pre_hook(param_sync=True)
    try:
        yield
    finally:
        for chunk in chunks:
            chunk.enable_forward_pre_hook()


def build_optimizer(
    model: Sequence[DistributedDataParallel], *, optim: OptimConfig, precision: PrecisionConfig
) -> MegatronOptimizer:
    """AdamW over the model's parameters."""
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.min_lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.adam_beta1,
        adam_beta2=optim.adam_beta2,
        adam_eps=optim.adam_eps,
        clip_grad=optim.clip_grad,
        bf16=precision.bf16,
        params_dtype=precision.dtype,
        use_distributed_optimizer=optim.divides_state(precision),
    )
    overrides = get_standard_config_overrides(config)
    # The float32 head needs its own parameter groups: the distributed optimizer cannot save a group
    # of mixed dtypes. Of the keys by which the engine distinguishes groups when it loads them, this
    # is the one without any other effect.
    overrides[ParamKey(name="*rm_head.*")] = {"is_decoupled_lr": True}
    optimizer = get_megatron_optimizer(config, list(model), config_overrides=overrides)
    if use_fused_adam(optimizer):
        info("optimizer: torch's AdamW, fused, because neither apex nor Transformer Engine is installed")
    else:
        kind = type(single_optimizers(optimizer)[0].optimizer)
        info(f"optimizer: {kind.__name__} of {kind.__module__.split('.')[0]}, because it is installed")
    return optimizer


def is_of_experts(optimizer: MegatronOptimizer) -> bool:
    """Whether a single optimizer of the engine's updates experts; none updates experts and other weights."""
    return any(group["is_expert_parallel"] for group in optimizer.param_groups)


def gradient_norm_groups(optimizer: MegatronOptimizer, *, has_experts: bool) -> list[Any]:
    """The process groups over which the squares of gradients add up: of ordinary weights, then of experts.

    Args:
        has_experts: whether the model has experts, in this stage or another: every process of a group takes
            part, those of stages without experts too.
    """
    first = single_optimizers(optimizer)[0]
    groups = [first.get_grad_stats_parallel_group()]
    if not has_experts:
        return groups
    if first.config.use_distributed_optimizer:
        return [*groups, groups[0]]  # each process counts its share of the optimizer's state
    return [*groups, parallel_state.get_expert_tensor_model_pipeline_parallel_group()]


def use_fused_adam(optimizer: MegatronOptimizer) -> bool:
    """Switch torch's AdamW, if the engine uses it, to its fused form; return whether it did.

    The engine cannot be asked for it. A loaded state brings the settings of the run that wrote it,
    so this is called after loading too: the fused form wants its step counts on the device.
    """
    inner = [single.optimizer for single in single_optimizers(optimizer)]
    adams = [adam for adam in inner if isinstance(adam, torch.optim.AdamW)]
    for adam in adams:
        for group in adam.param_groups:
            group.update(fused=True, foreach=False)
        for parameter, values in adam.state.items():
            if "step" in values:
                values["step"] = values["step"].to(parameter.device, torch.float32)
    return bool(adams)


def build_scheduler(
    optimizer: MegatronOptimizer, optim: OptimConfig, schedule: tuple[int, int], wsd_decay: int | None = None
) -> OptimizerParamScheduler:
    """Megatron-LM's schedule; `schedule` is (warmup, decay) in samples, `wsd_decay` that of WSD's end."""
    warmup_samples, decay_samples = schedule
    return OptimizerParamScheduler(
        optimizer,
        init_lr=optim.lr_warmup_init,
        max_lr=optim.lr,
        min_lr=optim.min_lr,
        lr_warmup_steps=warmup_samples,
        lr_decay_steps=decay_samples,
        lr_decay_style=optim.lr_decay_style,
        start_wd=optim.weight_decay,
        end_wd=optim.weight_decay,
        wd_incr_steps=decay_samples,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=wsd_decay,
        lr_wsd_decay_style=optim.lr_wsd_decay_style,
    )
