"""PEFT's tensors of the updates of experts (peft 0.21), and how the engine's hold their rows.

PEFT wraps the module that has the parameters [experts, out, in] of a layer, once for each that it updates
(tuners/lora/layer.py, `ParamWrapper`). A is [experts * r, in], expert after expert; B is [out, r * experts],
and from one column to the next the expert changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.checkpoint.peft.names import a_name, b_name
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.model.adapter_targets import EXPERTS_MODULE, EXPERTS_NAMES, is_of_experts
from modellink_rm.model.adapting import adapted_linears
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.row_orders import RowOrder
from modellink_rm.model.families.tensors import EXPERT_FC1, StoredTensor
from modellink_rm.model.spec import ModelSpec

# The parts (A, B) of the processes, by (expert-parallel rank, expert tensor-parallel rank).
ExpertParts = Mapping[tuple[int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class AdaptedExperts:
    """A matrix of every expert of a layer, with an adapter.

    Attributes:
        layer: its number over the whole model, from 0.
        order: of the rows of one expert.
        wrapper: what PEFT calls the module that updates them, "model.layers.0.mlp.experts".
        num_experts: of the whole layer.
    """

    layer: int
    entry: StoredTensor
    order: RowOrder
    wrapper: str
    num_experts: int

    def expected_shapes(self, lora: Lora) -> dict[str, tuple[int, int]]:
        """PEFT's tensors, by their names."""
        assert self.order.columns is not None
        ranks = self.num_experts * lora.rank
        return {
            a_name(self.wrapper): (ranks, self.order.columns),
            b_name(self.wrapper): (sum(self.order.sizes), ranks),
        }

    def stored_tensors(self, parts: ExpertParts) -> dict[str, Tensor]:
        """PEFT's tensors, from what every process holds."""
        ep_size, etp_size = (max(ranks) + 1 for ranks in zip(*parts, strict=True))
        divides_inputs = self.order.divided == "columns"

        def whole(number: int, axis: int | None) -> Tensor:
            of_experts = [
                parts[ep, 0][number]
                if axis is None
                else torch.cat([parts[ep, etp][number] for etp in range(etp_size)], dim=axis)
                for ep in range(ep_size)
            ]
            return torch.cat(of_experts)

        a = whole(0, 2 if divides_inputs else None)
        b = whole(1, None if divides_inputs else -2)
        if self.order.is_interleaved:
            b = b.transpose(1, 2)
        b = b.flatten(1, -2)  # [experts, out, r]
        return {
            a_name(self.wrapper): a.flatten(0, 1).contiguous(),
            b_name(self.wrapper): b.permute(1, 2, 0).flatten(1).contiguous(),
        }

    def load(self, adapter: ExpertsAdapter, stored: Mapping[str, Tensor]) -> None:
        """Fill what a process holds from PEFT's tensors."""
        a, b = stored[a_name(self.wrapper)], stored[b_name(self.wrapper)]
        a = a.reshape(self.num_experts, -1, a.shape[1])
        b = b.reshape(len(b), -1, self.num_experts).permute(2, 0, 1)  # [experts, out, r]
        if self.entry.engine == EXPERT_FC1:
            experts, _, rank = b.shape
            if self.order.is_interleaved:
                b = b.reshape(experts, -1, 2, rank).transpose(1, 2)
            else:
                b = b.reshape(experts, 2, -1, rank)
        adapter.a.copy_(adapter.own_experts(adapter.own_inputs(a)))
        adapter.b.copy_(adapter.own_experts(adapter.own_outputs(b)))


def adapted_experts(spec: ModelSpec) -> list[AdaptedExperts]:
    """The matrices of experts of every layer that have adapters."""
    return [_described(layer, entry, spec) for layer, entry in adapted_linears(spec) if is_of_experts(entry)]


def _described(layer: int, entry: StoredTensor, spec: ModelSpec) -> AdaptedExperts:
    assert spec.lora is not None
    assert spec.shape.experts is not None
    of_layer = entry.names[0].split("{layer}.")[0] + "{layer}."
    wrapper = FAMILIES[spec.shape.family].tensors.name(of_layer + EXPERTS_MODULE, layer=layer, kind="")
    if entry.engine == EXPERT_FC1 and set(EXPERTS_NAMES.values()).issubset(spec.lora.targets):
        wrapper += ".base_layer"  # the wrapper of the other parameter wraps this one
    return AdaptedExperts(
        layer=layer,
        entry=entry,
        order=entry.row_order(spec.shape),
        wrapper=wrapper,
        num_experts=spec.shape.experts.number,
    )
