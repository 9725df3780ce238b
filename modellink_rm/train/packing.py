"""How a run packs its examples into micro-batches: tokens of one, and what their number is a multiple of."""

import math
from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel

from modellink_rm.base.device_memory import device_memory
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, is_cpu
from modellink_rm.batching.micro_batches import Packing
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.activation_bytes import Keeping, kept_per_token
from modellink_rm.model.config import RewardModelConfig
from modellink_rm.model.fits import shares_prompts
from modellink_rm.model.shape import ModelShape
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import micro_batches_multiple_of
from modellink_rm.train.plan import RunPlan

# Products of a multiple of so many rows leave no part of a GPU idle, and memory is asked for in fewer sizes.
ROWS_OF_A_GPU = 128
# Tokens of a micro-batch that keep a GPU busy; more of them are no faster.
_BUDGETS_OF_A_GPU = (8192, 16384)
_USED_SHARE = 0.85  # of a GPU's memory; the rest is for messages, temporary tensors and fragments
_FLOAT32 = 4


def packing_of(
    plan: RunPlan, model: Sequence[DistributedDataParallel], platform: Platform, ranks: Ranks
) -> Packing:
    """The packing of a run; a collective over all processes."""
    config = plan.config
    return Packing(
        max_tokens=_budget(plan, model, platform, ranks),
        divisible_by=tokens_multiple(config.parallel, platform.device),
        share_prefixes=config.data.prefix_sharing
        and shares_prompts(config.data.seq_length, plan.model.shape),
        multiple_of=micro_batches_multiple_of(model),
        equal_numbers=config.parallel.expert_group_size > 1,
    )


def tokens_multiple(parallel: ParallelConfig, device: torch.device) -> int:
    """The number of tokens of which a micro-batch's length is a multiple, by padding."""
    if is_cpu(device):
        return parallel.tokens_divisible_by()
    return math.lcm(parallel.tokens_divisible_by(), ROWS_OF_A_GPU * parallel.context_parallel_size)


def _budget(plan: RunPlan, model: Sequence[DistributedDataParallel], platform: Platform, ranks: Ranks) -> int:
    """Tokens of a micro-batch, equal on every process."""
    shape = plan.model.shape
    is_chosen = plan.config.training.max_tokens_per_micro_batch is not None
    if is_chosen or is_cpu(platform.device) or shape.experts is not None or shape.latent is not None:
        return plan.max_tokens
    static = static_bytes(
        sum(parameter.numel() for chunk in model for parameter in chunk.parameters()),
        element_size=plan.config.precision.dtype.itemsize,
        num_shares=ranks.dp_size * ranks.cp_size
        if plan.config.optim.divides_state(plan.config.precision)
        else 1,
    )
    budget = budget_of_gpu(
        plan.max_tokens,
        memory=device_memory(platform.device),
        static=static,
        bytes_per_token=bytes_per_token(shape, model[0].config, compiles=True) / ranks.cp_size,
    )
    agreed = torch.tensor(budget, device=platform.device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
    budget = int(agreed)
    if budget != plan.max_tokens:
        info(f"micro-batches: {budget} tokens fit the GPU; --max-tokens-per-micro-batch asks for others")
    return budget


def static_bytes(num_parameters: int, *, element_size: int, num_shares: int) -> int:
    """Bytes of a process's weights, gradients and optimizer state.

    Args:
        element_size: of the weights, in bytes; with 2 there is a float32 copy of them.
        num_shares: processes that divide the optimizer's state.
    """
    of_state = 2 * _FLOAT32 + (_FLOAT32 if element_size < _FLOAT32 else 0)
    return num_parameters * (element_size + _FLOAT32) + num_parameters * of_state // num_shares


def bytes_per_token(shape: ModelShape, config: RewardModelConfig, *, compiles: bool) -> float:
    """Bytes of activations on the first pipeline stage, which keeps the most, for each token that it holds.

    What one layer keeps is counted once more, for the gradients while its backward pass runs.
    """
    keeping = Keeping(
        element_size=config.params_dtype.itemsize,
        is_on_gpu=True,
        compiles_elementwise=compiles,
        tp_size=config.tensor_model_parallel_size,
        divides_rows=config.sequence_parallel,
        recomputes_norms=config.recomputes_norms,
        recomputes_gates=config.recomputes_gates,
        keys_per_token=2.0,
    )
    of_layer = kept_per_token(shape, keeping)
    kept = of_layer
    if config.recompute_granularity == "full" and config.recompute_method == "uniform":
        rows = 1 / config.tensor_model_parallel_size if config.sequence_parallel else 1.0
        kept = rows * shape.hidden_size * keeping.element_size
    # As many micro-batches are under way as there are stages, with as many layers each as a stage has.
    return shape.num_layers * kept + of_layer


def budget_of_gpu(least: int, *, memory: int, static: int, bytes_per_token: float) -> int:
    """The tokens of a micro-batch: `least`, or more where the GPU has room for what keeps it busy.

    Args:
        memory: bytes of the GPU.
        static: bytes that the model takes before any activation.
    """
    room = _USED_SHARE * memory - static
    return max([least, *(tokens for tokens in _BUDGETS_OF_A_GPU if tokens * bytes_per_token <= room)])
