"""The numbers of parameters that a process holds, counted from the tables that loading uses."""

from dataclasses import dataclass
from functools import lru_cache

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.adapter_targets import linear_orders
from modellink_rm.model.adapting import adapted_linears, updated_matrices
from modellink_rm.model.families.registry import FAMILIES, tensors_of
from modellink_rm.model.families.tensors import EMBEDDING, FINAL_LAYERNORM, StoredTensor
from modellink_rm.model.spec import EXPERTS_INFIX, LM_HEAD, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters of one process of a pipeline stage.

    Attributes:
        ordinary: those whose copies are on every process of the stage with the same tensor-parallel rank.
        experts: those of experts, whose copies are on the processes that hold the same experts.
        largest: of its largest matrix; the embedding's gradient is added up by rows and takes nothing.
        adapters: those of adapters, which are not among the others; None where there are none.
        quantized: of the ordinary ones those that are held in 4 bits.
    """

    ordinary: int
    experts: int
    largest: int
    adapters: int | None = None
    quantized: int = 0

    @property
    def total(self) -> int:
        """All of the model's own."""
        return self.ordinary + self.experts

    @property
    def trained(self) -> int:
        """Those that have gradients."""
        return self.total if self.adapters is None else self.adapters


def parameters_of_stage(spec: ModelSpec, parallel: ParallelConfig, stage: int) -> Parameters:
    """The parameters of a process of pipeline stage `stage`, from 0, its virtual stages together.

    The reward head is not counted: a vector.
    """
    table, shape = tensors_of(spec), spec.shape
    layers = layers_of_stage(shape.num_layers, parallel, stage)
    sizes = [size for layer in layers for size in _sizes_of_layer(spec, layer, parallel)]
    largest = max(size for _, size in sizes)
    is_first, is_last = stage == 0, stage == parallel.pipeline_model_parallel_size - 1
    ends = {EMBEDDING: is_first, FINAL_LAYERNORM: is_last and spec.post_layer_norm}
    ends[LM_HEAD] = is_last and not (is_first and spec.ties_embedding)
    for entry in table.ends:
        if ends[entry.engine]:
            sizes += [(False, size) for size in _sizes(entry, spec, parallel)]
    adapters, quantized = _of_adapters(spec, layers, parallel.tensor_model_parallel_size)
    return Parameters(
        adapters=adapters,
        quantized=quantized,
        ordinary=sum(size for is_expert, size in sizes if not is_expert),
        experts=sum(size for is_expert, size in sizes if is_expert),
        largest=largest,
    )


def _of_adapters(spec: ModelSpec, layers: list[int], tp_size: int) -> tuple[int | None, int]:
    """The numbers of the adapters of these layers in one process, and those that are held in 4 bits."""
    if spec.lora is None:
        return None, 0
    adapters = 0
    for layer, entry in adapted_linears(spec):
        if layer in layers:
            order = entry.row_order(spec.shape)
            columns, rows = order.columns or 0, sum(order.sizes)
            if order.divided == "columns":
                columns //= tp_size
            else:
                rows //= tp_size
            adapters += spec.lora.rank * (len(updated_matrices(entry, spec.lora)) * columns + rows)
    if not spec.lora.quantization:
        return adapters, 0
    return adapters, len(layers) * sum(
        sum(order.sizes) * (order.columns or 0) // tp_size for order in linear_orders(spec.shape)
    )


def layers_of_stage(num_layers: int, parallel: ParallelConfig, stage: int) -> list[int]:
    """Numbers of the layers of a pipeline stage, over the whole model."""
    num_stages, num_chunks = parallel.pipeline_model_parallel_size, parallel.num_virtual_stages(num_layers)
    of_chunk = num_layers // num_stages // num_chunks
    return [
        (chunk * num_stages + stage) * of_chunk + number
        for chunk in range(num_chunks)
        for number in range(of_chunk)
    ]


@lru_cache(maxsize=4096)
def _sizes_of_layer(spec: ModelSpec, layer: int, parallel: ParallelConfig) -> tuple[tuple[bool, int], ...]:
    """Of each tensor of a layer whether it is of experts, and its size in one process."""
    return tuple(
        (EXPERTS_INFIX in entry.engine, size)
        for entry in FAMILIES[spec.shape.family].tensors.layer
        if entry.is_in(spec.shape, layer)
        for size in _sizes(entry, spec, parallel)
    )


def _sizes(entry: StoredTensor, spec: ModelSpec, parallel: ParallelConfig) -> list[int]:
    """Numbers of parameters of an entry's weight, and of its bias if it has one, in one process."""
    order = entry.row_order(spec.shape)
    rows = spec.padded_vocab_size if order.is_padded else sum(order.sizes)
    copies, divisor = 1, parallel.tensor_model_parallel_size
    if EXPERTS_INFIX in entry.engine:
        assert spec.shape.experts is not None
        copies = spec.shape.experts.number // parallel.expert_model_parallel_size
        divisor = parallel.expert_tensor_parallel_size
    weight = copies * rows * (order.columns or 1)
    sizes = [weight if order.divided == "nothing" else weight // divisor]
    if entry.bias and getattr(spec.shape, entry.bias):
        sizes.append(copies * rows // (divisor if order.divided in ("rows", "each range") else 1))
    return sizes
