"""Adapters in a stage of the model."""

import zlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from modellink_rm.adapters.adapter import ColumnAdapter, RowAdapter
from modellink_rm.adapters.linears import ColumnLinear, Linear, make_dense
from modellink_rm.adapters.lora import ADAPTER, Lora, is_of_adapter
from modellink_rm.experts.adapter import ExpertsAdapter
from modellink_rm.experts.modules import ExpertWeights
from modellink_rm.model.adapter_targets import adaptable_entries, own_names
from modellink_rm.model.families.tensors import StoredTensor
from modellink_rm.model.spec import HEAD_PREFIX, LAYER_PREFIX, ModelSpec


def adapted_linears(spec: ModelSpec) -> Iterator[tuple[int, StoredTensor]]:
    """The layer's number, from 0, and the table's entry of each matrix that has an adapter."""
    assert spec.lora is not None
    targets = set(spec.lora.targets)
    for layer in range(spec.shape.num_layers):
        for entry in adaptable_entries(spec.shape):
            if entry.is_in(spec.shape, layer) and targets.intersection(own_names(entry)):
                yield layer, entry


def updated_matrices(entry: StoredTensor, lora: Lora) -> tuple[str, ...]:
    """The names of an entry's matrices that are updated, within a layer and in the order of their A."""
    return tuple(name for name in own_names(entry) if name in lora.targets)


def add_adapters(chunk: Any, spec: ModelSpec, *, seed: int) -> None:
    """Give the linears of a stage their adapters, and freeze all but these and the head.

    Args:
        chunk: a `RewardModel`.
    """
    assert spec.lora is not None
    for name, parameter in chunk.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD_PREFIX))
    for number, entry in adapted_linears(spec):
        layer = chunk.layer(number)
        if layer is None:
            continue
        adapter = _add_adapter(module_of(entry, layer), entry, spec, spec.lora)
        adapter.initialize(zlib.crc32(f"{seed} {LAYER_PREFIX}{number}.{entry.engine}".encode()))


def module_of(entry: StoredTensor, layer: nn.Module) -> Linear | ExpertWeights:
    """What holds a matrix of a layer, or that of every expert."""
    module = layer.get_submodule(entry.engine.replace("{expert}.", ""))
    assert isinstance(module, Linear | ExpertWeights)
    return module


def _add_adapter(
    module: Linear | ExpertWeights, entry: StoredTensor, spec: ModelSpec, lora: Lora
) -> ColumnAdapter | RowAdapter | ExpertsAdapter:
    """The adapter of a module, which it has from now on."""
    if isinstance(module, ExpertWeights):
        return module.add_adapter(lora)
    adapter = _adapter_of(module, entry, spec, lora)
    module.register_module(ADAPTER, adapter)
    return adapter


def _adapter_of(
    linear: Linear, entry: StoredTensor, spec: ModelSpec, lora: Lora
) -> ColumnAdapter | RowAdapter:
    """The adapter of a linear, for the rows or columns that this rank holds."""
    order = entry.row_order(spec.shape)
    rank, size = linear.tp_group.rank(), linear.tp_group.size()
    numbers = {name: number for number, name in enumerate(updated_matrices(entry, lora))}
    of_parts = [numbers.get(name, -1) for name in own_names(entry)]
    sizes = order.sizes if len(entry.names) > 1 else (sum(order.sizes),)
    of_rows = [number for number, rows in zip(of_parts, sizes, strict=True) for _ in range(rows)]
    matrices = [of_rows[row] for span in order.ranges_of_rank(rank, size) for row in range(*span)]
    rows, columns = _weight_shape(linear)
    kind = ColumnAdapter if isinstance(linear, ColumnLinear) else RowAdapter
    assert len(matrices) == rows
    return kind(
        lora,
        (rows, columns),
        matrices,
        num_matrices=len(numbers),
        dtype=linear.config.params_dtype,
        tp_group=linear.tp_group,
        has_divided_rows=linear.sequence_parallel,
        is_gate_and_up=order.divided == "each range",
    )


def _weight_shape(linear: Linear) -> tuple[int, int]:
    shape = linear.weight.shape if linear.quantized is None else linear.quantized.shape
    return int(shape[0]), int(shape[1])


def merge_adapters(chunk: Any) -> None:
    """Add the adapters of a stage to its weights, dequantize these, and take the adapters away."""
    for module in chunk.modules():
        if isinstance(module, Linear):
            make_dense(module)
        elif isinstance(module, ExpertWeights):
            module.make_dense()


def is_trained(name: str) -> bool:
    """Whether a parameter of a model with adapters is trained, by its name."""
    return is_of_adapter(name) or name.startswith(HEAD_PREFIX)
