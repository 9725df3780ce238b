"""How a run packs its examples into micro-batches: tokens of one, and what their number is a multiple of."""

import dataclasses
import math
from collections.abc import Sequence

import torch

from modellink_rm.base.device_memory import device_memory
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, is_cpu
from modellink_rm.batching.micro_batches import Packing
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.estimate.choose import USABLE_SHARE
from modellink_rm.estimate.memory import CUDA, Workload, memory_of
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import micro_batches_multiple_of
from modellink_rm.train.memory import workload_of
from modellink_rm.train.plan import RunPlan

# Products of a multiple of so many rows leave no part of a GPU idle, and memory is asked for in fewer sizes.
ROWS_OF_A_GPU = 128
# Tokens of a micro-batch that keep a GPU busy; more of them are no faster.
_BUDGETS_OF_A_GPU = (8192, 16384)


def packing_of(plan: RunPlan, model: Sequence[RewardModel], platform: Platform, ranks: Ranks) -> Packing:
    """The packing of a run; a collective over all processes."""
    config = plan.config
    return Packing(
        max_tokens=_budget(plan, platform, ranks),
        divisible_by=tokens_multiple(config.parallel, platform.device),
        share_prefixes=plan.shares_prompts,
        multiple_of=micro_batches_multiple_of(model),
        equal_numbers=config.parallel.expert_group_size > 1,
        predicts_answers=plan.model.spec.is_language_model,
    )


def tokens_multiple(parallel: ParallelConfig, device: torch.device) -> int:
    """The number of tokens of which a micro-batch's length is a multiple, by padding."""
    if is_cpu(device):
        return parallel.tokens_divisible_by()
    return math.lcm(parallel.tokens_divisible_by(), ROWS_OF_A_GPU * parallel.context_parallel_size)


def _budget(plan: RunPlan, platform: Platform, ranks: Ranks) -> int:
    """Tokens of a micro-batch, equal on every process."""
    is_chosen = plan.config.training.max_tokens_per_micro_batch is not None
    if is_chosen or is_cpu(platform.device):
        return plan.max_tokens
    compiles = plan.config.kernels.compile != "never"
    run = workload_of(plan, CUDA, world_size=ranks.world_size, compiles_elementwise=compiles)
    budget = budget_of_gpu(run, least=plan.max_tokens, memory=device_memory(platform.device))
    agreed = torch.tensor(budget, device=platform.device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
    budget = int(agreed)
    if budget != plan.max_tokens:
        info(f"micro-batches: {budget} tokens fit the GPU; --max-tokens-per-micro-batch asks for others")
    return budget


def budget_of_gpu(run: Workload, *, least: int, memory: int) -> int:
    """The tokens of a micro-batch: `least`, or more where the GPU has room for what keeps it busy.

    Args:
        run: with the micro-batch of its largest example.
        memory: bytes of the GPU.
    """

    def fits(tokens: int) -> bool:
        filled = dataclasses.replace(run, num_tokens=max(tokens, run.num_tokens))
        return memory_of(filled).peak <= USABLE_SHARE * memory

    return max([least, *(tokens for tokens in _BUDGETS_OF_A_GPU if fits(tokens))])
