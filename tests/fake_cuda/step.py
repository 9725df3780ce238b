"""Takes a step on a fake GPU; import this file only in a process of its own, which `child.py` starts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch._subclasses.fake_tensor import FakeTensorMode

from modellink_rm.batching.batch import Batch, pack_examples
from modellink_rm.checkpoint.state import sharded_state
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.dataset.example import Example, Response
from modellink_rm.experts.shape import Experts
from modellink_rm.model.build import build_model
from modellink_rm.model.config import Kernels as ChosenKernels
from modellink_rm.model.reward_model import RewardModel
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec
from modellink_rm.objective.choice import choose_objective
from modellink_rm.parallel.groups import Ranks
from modellink_rm.parallel.pipeline import forward_scores
from modellink_rm.train.optimizer import TrainState, build_optimizer, build_scheduler, wrap_for_training
from modellink_rm.train.packing import tokens_multiple
from modellink_rm.train.step import StepLoss, train_step
from tests.fake_cuda.case import EXAMPLES_TOKENS, SHAPE, Case, Measured
from tests.fake_cuda.device import DEVICE, one_rank_of
from tests.fake_cuda.measure import Kernels


def measure(case: Case) -> Measured:
    """What the case asks of the device once the model is there."""
    parallel = ParallelConfig(**case.parallel)
    precision = PrecisionConfig(**{"bf16": True, **case.precision})
    optim = OptimConfig(**{"use_distributed_optimizer": True, **case.optim})
    kernels = Kernels()
    loss = _WatchedLoss(objective=choose_objective("sigmoid"), kernels=kernels)
    torch.cuda.synchronize = kernels.wait
    with one_rank_of(parallel, world_size=case.world_size, rank=case.rank) as ranks:
        batch = batch_of(case.num_examples, parallel, ranks)
        with FakeTensorMode():
            with kernels:
                chunks = make_model(case, parallel, precision)
                state = make_state(chunks, precision, optim) if case.does != "scores" else None
            static = kernels.live.now()
            kernels.clear()
            batches = [on_device(batch) for _ in range(case.num_micro_batches)]
            with kernels:
                if state is None:
                    forward_scores(
                        [chunk.eval() for chunk in chunks], iter(batches), num_micro_batches=len(batches)
                    )
                else:
                    train_step(state, batches, loss, num_examples=8, ranks=ranks, device=DEVICE)
            saved: Any = None
            if state is not None and case.does == "state":
                static = kernels.live.now()
                kernels.clear()
                with kernels:
                    saved = sharded_state(state.model, state.optimizer, is_loading=False)
    return Measured(
        result_bytes=sum(tensor.nbytes for tensor in _tensors_of(saved)),
        static=static,
        saved=loss.alive[0] - static if loss.alive else 0,
        peak=kernels.live.peak,
        kernels=kernels.counts,
        waits=kernels.waits,
        strays=kernels.strays,
        num_tokens=len(batch.input_ids),
    )


def _tensors_of(state: Any) -> list[torch.Tensor]:
    """The tensors of what is saved, each once."""
    described = nested_values(state) if state is not None else ()
    tensors = [value.data for value in described if isinstance(value, ShardedTensor | ShardedTensorFactory)]
    return list({id(tensor): tensor for tensor in tensors}.values())


@dataclass(frozen=True, kw_only=True)
class _WatchedLoss(StepLoss):
    """The loss of pairs, which notes how many bytes are alive when it is called."""

    kernels: Kernels
    alive: list[int] = field(default_factory=list)

    def __call__(self, scores: torch.Tensor, batch: Batch) -> Any:
        """As any loss of a step."""
        self.alive.append(self.kernels.live.now())
        return super().__call__(scores, batch)


def make_model(case: Case, parallel: ParallelConfig, precision: PrecisionConfig) -> list[RewardModel]:
    """The model on the fake device."""
    fields = {**SHAPE, **case.shape}
    if "experts" in fields:
        fields["experts"] = Experts(**fields["experts"])
    return build_model(
        ModelSpec(shape=ModelShape(**fields), padded_vocab_size=fields["vocab_size"], head_bias=True),
        model=ModelConfig(),
        parallel=parallel,
        precision=precision,
        kernels=ChosenKernels(attention=case.attention, compiles_elementwise=False),
        seed=1,
        initialize=False,
    )


def make_state(chunks: list[RewardModel], precision: PrecisionConfig, optim: OptimConfig) -> TrainState:
    """The model with gradients, optimizer and schedule."""
    wrapped = wrap_for_training(chunks, optim=optim, precision=precision)
    optimizer = build_optimizer(wrapped, optim=optim, precision=precision)
    return TrainState(wrapped, optimizer, build_scheduler(optimizer, optim, (0, 80)))


def batch_of(num_examples: int, parallel: ParallelConfig, ranks: Ranks) -> Batch:
    """A rank's share of a micro-batch of pairs with a shared prompt, in host memory."""
    prompt, *responses = EXAMPLES_TOKENS
    examples = [
        Example(
            index=number,
            responses=tuple(
                Response(
                    input_ids=np.repeat(np.array([1, 2 + place], dtype=np.int32), [prompt, length]),
                    num_prompt_tokens=prompt,
                )
                for place, length in enumerate(responses)
            ),
            ranks=(1, 2),
        )
        for number in range(num_examples)
    ]
    whole = pack_examples(examples, divisible_by=tokens_multiple(parallel, DEVICE))
    return whole.share(rank=ranks.cp_rank, size=ranks.cp_size)


def on_device(batch: Batch) -> Batch:
    """The batch with fake tensors."""
    return batch.with_tensors(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE))
