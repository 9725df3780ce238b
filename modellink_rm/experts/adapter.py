"""Low-rank updates of a matrix of every expert: each expert has an A and a B of its own.

The form is that of PEFT's `target_parameters` (peft 0.21, tuners/lora/layer.py, `ParamWrapper`), which
updates a parameter [experts, out, in] of transformers 5: gate and up are one matrix there, with one A.
"""

import math
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from modellink_rm.adapters.lora import Lora
from modellink_rm.experts.dispatch import ExpertProcesses
from modellink_rm.experts.grouped import grouped_linear


class ExpertsAdapter(nn.Module):
    """The updates of the experts that a process holds, or of parts of their matrices.

    Attributes:
        a: [experts, r, in].
        b: [experts, 2, f, r] for gate and up, [experts, h, r] for down.
        divides_inputs: expert tensor parallelism divides the columns of A; else the rows of B. The other
            of the two is whole on every one of those processes.
    """

    def __init__(
        self,
        lora: Lora,
        shape: tuple[int, ...],
        *,
        divides_inputs: bool,
        dtype: torch.dtype,
        device: torch.device,
        processes: ExpertProcesses,
    ) -> None:
        """Updates of 0, with A that are not initialized.

        Args:
            shape: of the weight that this process holds, whose last axis is the inputs.
        """
        super().__init__()
        self.lora = lora
        self.divides_inputs = divides_inputs
        self.processes = processes
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self.a = nn.Parameter(torch.empty(shape[0], lora.rank, shape[-1], **options))
        self.b = nn.Parameter(torch.zeros(*shape[:-1], lora.rank, **options))
        for parameter in (self.a, self.b):
            # As of the experts' own weights.
            parameter.allreduce = False  # type: ignore[attr-defined]
            set_tensor_model_parallel_attributes(parameter, True, 0, 1)
        # Of equal copies one counts in the gradient norm.
        self._whole().shared = processes.etp_rank > 0  # type: ignore[attr-defined]

    def forward(self, output: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
        """The output [m, out] of the experts' matrices for rows [m, in], with the updates.

        Args:
            counts: int64 [experts], rows of each.
        """
        a, b = self.a, self.b
        if self.processes.etp_size > 1:
            # Each process has a part of the gradient of what all of them have whole.
            group = parallel_state.get_expert_tensor_parallel_group()
            if self.divides_inputs:
                b = _GradientSummed.apply(b, group)  # type: ignore[no-untyped-call]
            else:
                a = _GradientSummed.apply(a, group)  # type: ignore[no-untyped-call]
        low = grouped_linear(rows, a, counts)
        return torch.add(output, grouped_linear(low, b.flatten(1, -2), counts), alpha=self.lora.scaling)

    @torch.no_grad()
    def delta(self, number: int) -> Tensor:
        """What the matrix of this process's expert `number` is updated by, [out, in], in float32."""
        return self.lora.scaling * self.b[number].flatten(0, -2).float() @ self.a[number].float()

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw A as PEFT does, U(-1 / sqrt(in), 1 / sqrt(in)), equally for every parallel size."""
        where, generator = self.processes, torch.Generator().manual_seed(seed)
        num_inputs = self.a.shape[2] * (where.etp_size if self.divides_inputs else 1)
        whole = torch.rand(where.ep_size * len(self.a), self.a.shape[1], num_inputs, generator=generator)
        self.a.copy_(self.own_experts(self.own_inputs((2 * whole - 1) / math.sqrt(num_inputs))))
        self.b.zero_()

    def own_experts(self, of_all: Tensor) -> Tensor:
        """Of a tensor of all experts that of this process's."""
        own: Tensor = of_all.chunk(self.processes.ep_size)[self.processes.ep_rank]
        return own

    def own_inputs(self, a: Tensor) -> Tensor:
        """This process's columns of A [experts, r, in]."""
        where = self.processes
        own: Tensor = a.chunk(where.etp_size, dim=2)[where.etp_rank] if self.divides_inputs else a
        return own

    def own_outputs(self, b: Tensor) -> Tensor:
        """This process's rows of B, [experts, 2, f, r] or [experts, h, r]."""
        where = self.processes
        own: Tensor = b if self.divides_inputs else b.chunk(where.etp_size, dim=-2)[where.etp_rank]
        return own

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The parameters as parts of those of all experts, for megatron-core's checkpoints."""
        first, where = len(sharded_offsets), self.processes
        found = {}
        for name, parameter in self.named_parameters():
            is_whole = parameter is self._whole()
            axis = first + parameter.dim() - (1 if self.divides_inputs else 2)
            found[f"{prefix}{name}"] = ShardedTensor.from_rank_offsets(
                f"{prefix}{name}",
                parameter,
                *sharded_offsets,
                (first, where.ep_rank, where.ep_size),
                *(() if is_whole else ((axis, where.etp_rank, where.etp_size),)),
                replica_id=(
                    0,
                    where.etp_rank if is_whole else 0,
                    parallel_state.get_expert_data_parallel_rank(),
                ),
                prepend_axis_num=first,
            )
        return found

    def _whole(self) -> nn.Parameter:
        """What expert tensor parallelism does not divide."""
        return self.b if self.divides_inputs else self.a


class _GradientSummed(torch.autograd.Function):
    """The weight itself, whose gradient is summed over a group.

    megatron-core 0.16.1's own (tensor_parallel/mappings.py, `_reduce`) loses the sum where a gradient is not
    contiguous, as that of a grouped product.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total, group=ctx.group)
        return total, None
