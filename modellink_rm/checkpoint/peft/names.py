"""What PEFT calls the tensors of an adapter (peft 0.21), and how the engine's hold their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modellink_rm.adapters.lora import Lora
from modellink_rm.checkpoint.hf.heads import TOKEN_SCORE
from modellink_rm.model.adapter_targets import EXPERTS_NAMES, is_of_experts, shortest_names
from modellink_rm.model.adapting import adapted_linears, updated_matrices
from modellink_rm.model.families.registry import FAMILIES
from modellink_rm.model.families.row_orders import RowOrder
from modellink_rm.model.families.tensors import StoredTensor
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

# Of a model that PEFT wraps.
WRAPPED = "base_model.model."
_TAKEN_FOR_EXPERTS = (".gate_proj", ".up_proj", ".down_proj")


@dataclass(frozen=True)
class AdaptedLinear:
    """A linear of the engine with an adapter, and the family's matrices in it.

    Attributes:
        layer: its number over the whole model, from 0.
        matrices: stored names of its matrices with the numbers of their rows, without ".weight".
        updated: those that have an A and a B, in the order of their A.
    """

    layer: int
    entry: StoredTensor
    order: RowOrder
    matrices: tuple[tuple[str, int], ...]
    updated: tuple[str, ...]

    @property
    def has_divided_outputs(self) -> bool:
        """Whether tensor parallelism divides the rows of B; else the columns of A."""
        return self.order.divided != "columns"

    def rows_of_rank(self, rank: int, size: int) -> Tensor:
        """For each row that a rank has of the engine's tensor, its row in the matrices one after another."""
        spans = self.order.ranges_of_rank(rank, size) if self.has_divided_outputs else self.order.order
        return torch.cat([torch.arange(*span) for span in spans])


def adapted(spec: ModelSpec) -> list[AdaptedLinear]:
    """Every linear of the model with an adapter; not the experts, which are no linears in PEFT's form."""
    assert spec.lora is not None
    return [
        _described(layer, entry, spec, spec.lora)
        for layer, entry in adapted_linears(spec)
        if not is_of_experts(entry)
    ]


def _described(layer: int, entry: StoredTensor, spec: ModelSpec, lora: Lora) -> AdaptedLinear:
    table, order = FAMILIES[spec.shape.family].tensors, entry.row_order(spec.shape)
    sizes = order.sizes if len(entry.names) > 1 else (sum(order.sizes),)
    names = [table.name(name, layer=layer, kind="") for name in entry.names]
    updated = updated_matrices(entry, lora)
    return AdaptedLinear(
        layer=layer,
        entry=entry,
        order=order,
        matrices=tuple(zip(names, sizes, strict=True)),
        updated=tuple(name for name in names if name.endswith(tuple(f".{own}" for own in updated))),
    )


def a_name(stored: str) -> str:
    """What PEFT calls the A of a stored matrix, or of what it wraps."""
    return f"{WRAPPED}{stored}.lora_A.weight"


def b_name(stored: str) -> str:
    """What PEFT calls the B of a stored matrix, or of what it wraps."""
    return f"{WRAPPED}{stored}.lora_B.weight"


def expected_shapes(linear: AdaptedLinear, lora: Lora) -> dict[str, tuple[int, int]]:
    """PEFT's tensors of a linear, by their names."""
    columns = linear.order.columns
    assert columns is not None
    found: dict[str, tuple[int, int]] = {}
    for name, rows in linear.matrices:
        if name in linear.updated:
            found |= {a_name(name): (lora.rank, columns), b_name(name): (rows, lora.rank)}
    return found


def stored_tensors(linear: AdaptedLinear, parts: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """PEFT's tensors of a linear, from the (A, B) of each tensor-parallel rank."""
    if linear.has_divided_outputs:
        a = parts[0][0]
        b = parts[0][1].new_zeros(sum(rows for _, rows in linear.matrices), parts[0][1].shape[1])
        for rank, (_, own) in enumerate(parts):
            b[linear.rows_of_rank(rank, len(parts))] = own
    else:
        a = torch.cat([own for own, _ in parts], dim=1)
        b = parts[0][1]
    all_a = dict(zip(linear.updated, a.chunk(len(linear.updated)), strict=True))
    all_b = torch.split(b, [rows for _, rows in linear.matrices])
    found: dict[str, Tensor] = {}
    for (name, _), rows in zip(linear.matrices, all_b, strict=True):
        if name in all_a:
            found |= {a_name(name): all_a[name].contiguous(), b_name(name): rows.contiguous()}
    return found


def own_tensors(
    linear: AdaptedLinear, stored: Mapping[str, Tensor], rank: int, size: int
) -> tuple[Tensor, Tensor]:
    """A rank's (A, B) of a linear, from PEFT's tensors: the inverse of `stored_tensors`."""
    a = torch.cat([stored[a_name(name)] for name in linear.updated])
    num_columns = stored[b_name(linear.updated[0])].shape[1]
    b = torch.cat(
        [
            stored[b_name(name)] if name in linear.updated else a.new_zeros(rows, num_columns)
            for name, rows in linear.matrices
        ]
    )
    if linear.has_divided_outputs:
        return a, b[linear.rows_of_rank(rank, size)]
    return a.chunk(size, dim=1)[rank], b


def peft_targets(lora: Lora, shape: ModelShape) -> tuple[list[str], list[str]]:
    """The targets as PEFT's `target_modules` and `target_parameters`.

    In a family with experts, peft 0.21 takes every module gate_proj, up_proj or down_proj for one of experts
    (utils/transformers_weight_conversion.py, `_convert_peft_config_moe`). So such linears are named by their
    parameters there, which changes neither their A and B nor what these compute.
    """
    parameters = [name for name in EXPERTS_NAMES.values() if name in lora.targets]
    modules = []
    has_experts = any(is_of_experts(entry) for entry in FAMILIES[shape.family].tensors.layer)
    for name, short in shortest_names(lora, shape).items():
        if has_experts and name.endswith(_TAKEN_FOR_EXPERTS):
            parameters.append(f"{name}.weight")
        else:
            modules.append(short)
    return modules, parameters


def head_names(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the head's tensors: of the weight, and of the bias in a model that scores steps."""
    if spec.scores_steps:
        return TOKEN_SCORE.weight, TOKEN_SCORE.bias
    return (FAMILIES[spec.shape.family].tensors.head_name,)


def saved_name(head: str) -> str:
    """What PEFT calls a tensor of the head in the model that it wraps, of `modules_to_save`."""
    module, kind = head.rsplit(".", 1)
    return f"{WRAPPED}{module}.modules_to_save.{kind}"
