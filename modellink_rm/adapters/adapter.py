"""Low-rank updates of the engine's divided linear layers, by PEFT's matrices A and B.

What tensor parallelism exchanges of an update is r numbers a token. A linear of the engine may hold several
of a family's matrices, such as those of queries, keys and values; each has an A and a B of its own.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    get_cuda_rng_tracker,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.tensor_parallel.random import get_data_parallel_rng_tracker_name
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn
from torch.nn import functional

from modellink_rm.adapters.lora import Lora


class Adapter(nn.Module):
    """The update of one linear.

    Attributes:
        a: [n * r, in], the A of each of the n matrices that are updated, one after another.
        b: [out, r], the B of all of them, its rows in the order of the linear's outputs. Rows of matrices
            that are not updated stay 0.
        has_divided_rows: whether each tensor-parallel rank gets other tokens.
    """

    owners: Tensor | None

    def __init__(
        self,
        lora: Lora,
        shape: tuple[int, int],
        matrices: Sequence[int],
        *,
        num_matrices: int,
        dtype: torch.dtype,
        tp_group: Any,
        has_divided_rows: bool,
        is_gate_and_up: bool = False,
    ) -> None:
        """An update of 0, with an A that is not initialized.

        Args:
            shape: of this rank's part of the weight, (out, in).
            matrices: for each output, the number of the matrix that it is of, from 0, or -1 if that one is
                not updated.
            num_matrices: that are updated; a rank may have outputs of some of them alone.
            is_gate_and_up: the outputs are a part of the gate, then one of the up projection.
        """
        super().__init__()
        self.lora = lora
        self.tp_group = tp_group
        self.has_divided_rows = has_divided_rows
        self.is_gate_and_up = is_gate_and_up
        options: dict[str, Any] = {"dtype": dtype, "device": torch.cuda.current_device()}
        self.a = nn.Parameter(torch.empty(num_matrices * lora.rank, shape[1], **options))
        self.b = nn.Parameter(torch.zeros(len(matrices), lora.rank, **options))
        owners = None
        if num_matrices > 1 or set(matrices) != {0}:
            numbers = torch.arange(num_matrices)
            owners = (torch.tensor(matrices)[:, None] == numbers).to(**options)
        self.register_buffer("owners", owners, persistent=False)  # [out, n], 1 where an output is of a matrix

    def up(self) -> Tensor:
        """What multiplies the results of all A, [out, n * r]: B, and 0 for the other matrices' results."""
        if self.owners is None:
            return self.b
        return (self.b[:, None] * self.owners[:, :, None]).flatten(1)

    @torch.no_grad()
    def delta(self) -> Tensor:
        """What this rank's weight [out, in] is updated by, in float32."""
        return self.lora.scaling * self.up().float() @ self.a.float()

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw A as PEFT does, U(-1 / sqrt(in), 1 / sqrt(in)), equally for every parallel size."""
        num_inputs = self.num_inputs
        whole = torch.rand(len(self.a), num_inputs, generator=torch.Generator().manual_seed(seed))
        self.a.copy_(self.own_inputs((2 * whole - 1) / math.sqrt(num_inputs)))
        self.b.zero_()

    @property
    def num_inputs(self) -> int:
        """Of the whole linear."""
        return self.a.shape[1]

    def own_inputs(self, whole: Tensor) -> Tensor:
        """This rank's columns."""
        return whole

    def added(self, output: Tensor, low: Tensor, up: Tensor) -> Tensor:
        """The linear's output [t, 1, out] with the update.

        Args:
            low: the results of A, [t, 1, n * r].
            up: `up()`, or its rows for these outputs.
        """
        rows = torch.addmm(output.flatten(0, 1), low.flatten(0, 1), up.t(), alpha=self.lora.scaling)
        return rows.view(output.shape)

    def dropped(self, states: Tensor, draws: AbstractContextManager[Any]) -> Tensor:
        """The states with dropout, in training; one mask for all matrices."""
        if not (self.training and self.lora.dropout):
            return states
        with draws:
            return functional.dropout(states, self.lora.dropout)

    def sharded(self, prefix: str, offsets: tuple[Any, ...], axes: dict[str, int]) -> dict[str, Any]:
        """The parameters for megatron-core's checkpoints; `axes` are those that are divided."""
        tensors: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            {"a": self.a, "b": self.b},
            prefix,
            axes,
            offsets,
            tp_group=self.tp_group,
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        return tensors


class ColumnAdapter(Adapter):
    """Of a linear whose outputs are divided: every rank has A, and its rows of B."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.a.sequence_parallel = self.has_divided_rows  # type: ignore[attr-defined]
        set_tensor_model_parallel_attributes(self.b, True, 0, 1)

    def forward(
        self,
        output: Tensor,
        states: Tensor,
        *,
        has_divided_rows: bool | None = None,
        part: Callable[[Tensor], Tensor] = lambda rows: rows,
    ) -> Tensor:
        """The output [t, 1, out] of the linear for some states, with the update.

        Args:
            states: [t, 1, in], or [t/tp, 1, in] of divided rows.
            has_divided_rows: False for rows that are whole, where others are divided.
            part: of rows for all outputs [out, ...] those of the outputs that are given.
        """
        is_divided = self.has_divided_rows if has_divided_rows is None else has_divided_rows
        return self.added(output, self._low(states, is_divided), part(self.up()))

    def _low(self, states: Tensor, is_divided: bool) -> Tensor:
        """The results of A [t, 1, n * r] for all tokens, whole on every rank."""
        a: Tensor = self.a
        if self.has_divided_rows and not is_divided:
            # Every rank computes this gradient whole, and the engine adds up the ranks' gradients.
            a = _ShareOfGradient.apply(a, 1 / self.tp_group.size())  # type: ignore[no-untyped-call]
        low = functional.linear(self.dropped(states, self._draws(is_divided)), a)
        if is_divided:
            return gather_from_sequence_parallel_region(low, group=self.tp_group)  # type: ignore[no-any-return]
        return copy_to_tensor_model_parallel_region(low, group=self.tp_group)  # type: ignore[no-any-return]

    def _draws(self, is_divided: bool) -> AbstractContextManager[Any]:
        """Equal draws on all ranks for whole rows; under sequence parallelism the engine's are unequal."""
        if self.tp_group.size() == 1 or is_divided:
            return nullcontext()
        fork: AbstractContextManager[Any] = get_cuda_rng_tracker().fork(get_data_parallel_rng_tracker_name())
        return fork

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The parameters; of gate and up the rows of each, as megatron-core stores the weight."""
        tensors = self.sharded(prefix, sharded_offsets, {"b": 0})
        if self.is_gate_and_up:
            name = f"{prefix}b"
            tensors[name] = apply_swiglu_sharded_factory(tensors[name], sharded_offsets)
        return tensors


class RowAdapter(Adapter):
    """Of a linear whose inputs are divided: every rank has its columns of A, and B."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        set_tensor_model_parallel_attributes(self.a, True, 1, 1)
        self.b.sequence_parallel = self.has_divided_rows  # type: ignore[attr-defined]

    @property
    def num_inputs(self) -> int:
        """Of the whole linear."""
        return self.a.shape[1] * int(self.tp_group.size())

    def own_inputs(self, whole: Tensor) -> Tensor:
        """This rank's columns."""
        own: Tensor = whole.chunk(self.tp_group.size(), dim=1)[self.tp_group.rank()]
        return own

    def forward(self, output: Tensor, states: Tensor) -> Tensor:
        """The output [t, 1, out], or [t/tp, 1, out], of the linear for [t, 1, in/tp], with the update."""
        return self.added(output, self._low(states), self.up())

    def _low(self, states: Tensor) -> Tensor:
        """The results of A [t, 1, r], or [t/tp, 1, r] of divided rows, of states [t, 1, in/tp]."""
        low = functional.linear(self.dropped(states, self._draws()), self.a)
        if self.has_divided_rows:
            return reduce_scatter_to_sequence_parallel_region(low, group=self.tp_group)  # type: ignore[no-any-return]
        return reduce_from_tensor_model_parallel_region(low, group=self.tp_group)  # type: ignore[no-any-return]

    def _draws(self) -> AbstractContextManager[Any]:
        """Draws of each rank's own: its inputs are others."""
        if self.tp_group.size() == 1:
            return nullcontext()
        fork: AbstractContextManager[Any] = get_cuda_rng_tracker().fork()
        return fork

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The parameters, for megatron-core's checkpoints."""
        return self.sharded(prefix, sharded_offsets, {"a": 1})


class _ShareOfGradient(torch.autograd.Function):
    """The weight itself, whose gradient is multiplied by a share."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, share: float) -> Tensor:
        ctx.share = share
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.share, None
