"""The engine's linear layers with room for an adapter, and for a weight that is held in 4 bits."""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor, nn

from modellink_rm.adapters.adapter import ColumnAdapter, RowAdapter
from modellink_rm.adapters.lora import ADAPTER
from modellink_rm.adapters.nf4 import NF4Weight, nf4_linear
from modellink_rm.base.megatron_compat import onednn_product
from modellink_rm.base.platform import ONEDNN_ROWS


class ColumnLinear(ColumnParallelLinear):
    """A linear that is divided by its outputs.

    Attributes:
        adapter: an update of its weight; None for none.
        quantized: its weight, where `weight` is None.
    """

    adapter: ColumnAdapter | None
    quantized: NF4Weight | None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        _make_room(self)

    def forward(self, input_: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor, Tensor | None]:
        """The output [t, 1, out/tp] of [t, 1, in] or [t/tp, 1, in], and a bias that is not added yet."""
        weight = own_weight(self, input_)
        if weight is None:
            output, bias = super().forward(input_, *arguments, **keywords)
        else:
            output, bias = self.product(input_, weight), None
            if self.bias is not None:
                output, bias = (output, self.bias) if self.skip_bias_add else (output + self.bias, None)
        if self.adapter is not None:
            output = self.adapter(output, input_)
        return output, bias

    def product(
        self, states: Tensor, weight: NF4Weight | Tensor, *, has_divided_rows: bool | None = None
    ) -> Tensor:
        """The product with rows of `own_weight`, with the exchanges of the engine's own.

        Args:
            has_divided_rows: of the states; as the linear says by default.
        """
        is_divided = self.sequence_parallel if has_divided_rows is None else has_divided_rows
        if is_divided:
            states = gather_from_sequence_parallel_region(states, group=self.tp_group)
        elif self.tp_group.size() > 1:
            states = copy_to_tensor_model_parallel_region(states, group=self.tp_group)
        return _multiplied(states, weight)

    def sharded_state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """What the engine saves, and the adapter as its parts."""
        return _sharded(self, super().sharded_state_dict, *arguments, **keywords)


class RowLinear(RowParallelLinear):
    """A linear that is divided by its inputs; see `ColumnLinear`."""

    adapter: RowAdapter | None
    quantized: NF4Weight | None

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        _make_room(self)

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output [t, 1, out] or [t/tp, 1, out] of [t, 1, in/tp], and the bias that is not added yet."""
        weight = own_weight(self, input_)
        if weight is None:
            output, bias = super().forward(input_)
        else:
            output, bias = self._product(input_, weight), self.bias
            if bias is not None and not self.skip_bias_add:
                output, bias = output + bias, None
        if self.adapter is not None:
            output = self.adapter(output, input_)
        return output, bias

    def _product(self, states: Tensor, weight: NF4Weight | Tensor) -> Tensor:
        assert self.input_is_parallel
        output = _multiplied(states, weight)
        if self.tp_group.size() == 1:
            return output
        if self.sequence_parallel:
            return reduce_scatter_to_sequence_parallel_region(output, group=self.tp_group)  # type: ignore[no-any-return]
        return reduce_from_tensor_model_parallel_region(output, group=self.tp_group)  # type: ignore[no-any-return]

    def sharded_state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """What the engine saves, and the adapter as its parts."""
        return _sharded(self, super().sharded_state_dict, *arguments, **keywords)


Linear = ColumnLinear | RowLinear


def own_weight(linear: Linear, states: Tensor) -> NF4Weight | Tensor | None:
    """The weight of a product that is not the engine's: in 4 bits, or by oneDNN; None for the engine's.

    Args:
        states: [n, 1, in], what is multiplied.
    """
    if linear.quantized is not None:
        return linear.quantized
    is_regular = len(states) % ONEDNN_ROWS == 0
    if linear.config.kernels.cpu_inference and is_regular and not torch.is_grad_enabled():
        weight: Tensor = linear.weight
        return weight
    return None


def _multiplied(states: Tensor, weight: NF4Weight | Tensor) -> Tensor:
    """states [t, 1, in] times the transposed weight, [t, 1, out]."""
    return nf4_linear(states, weight) if isinstance(weight, NF4Weight) else onednn_product(states, weight)


def _make_room(linear: Linear) -> None:
    """Give a linear no adapter yet, and a quantized weight where the model holds them so."""
    linear.register_module(ADAPTER, None)
    quantized = None
    if linear.config.quantizes_weights:
        # At once, so that a device never holds the matrices of all layers.
        quantized = NF4Weight(*linear.weight.shape, dtype=linear.weight.dtype, device=linear.weight.device)
        linear.register_parameter("weight", None)
    linear.register_module("quantized", quantized)


def make_dense(linear: Linear) -> None:
    """Give a linear the weight that it computes with: dequantized, its adapter added and taken away."""
    weight = linear.weight if linear.quantized is None else linear.quantized.dense()
    if linear.adapter is not None:
        weight = (weight.detach().float() + linear.adapter.delta()).to(weight.dtype)
    linear.register_parameter("weight", nn.Parameter(weight, requires_grad=False))
    linear.register_module("quantized", None)
    linear.register_module(ADAPTER, None)


def _sharded(linear: Linear, of_engine: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    """What the engine describes for a checkpoint, the adapter's parameters as parts of whole ones."""

    def described(
        prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        tensors: dict[str, Any] = of_engine(prefix, sharded_offsets, metadata)
        if linear.adapter is None:
            return tensors
        own = f"{prefix}{ADAPTER}."
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(own)}
        return tensors | linear.adapter.sharded_state_dict(own, sharded_offsets, metadata)

    return described(*arguments, **keywords)
