"""The numbers of parameters that a process holds, counted from the tables that loading uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.model.adapter_targets import is_adaptable, is_of_experts
from modellink_rm.model.adapting import adapted_linears, updated_matrices
from modellink_rm.model.families.registry import FAMILIES, tensors_of
from modellink_rm.model.families.tensors import EMBEDDING, FINAL_LAYERNORM, StoredTensor
from modellink_rm.model.spec import LM_HEAD, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters of one process of a pipeline stage.

    Attributes:
        ordinary: those whose copies are on every process of the stage with the same tensor-parallel rank.
        experts: those of experts, whose copies are on the processes that hold the same experts.
        trained_ordinary: of the ordinary ones those that have gradients; with adapters, of these.
        trained_experts: of those of experts likewise.
        largest: of the largest matrix that is made at a time: a gradient, or one that is held in 4 bits. The
            embedding's gradient is added up by rows, and those of adapters are small: they take nothing.
        adapters: those of adapters, which are not among the model's own.
        quantized: of the model's own those that are held in 4 bits.
    """

    ordinary: int
    experts: int
    trained_ordinary: int
    trained_experts: int
    largest: int
    adapters: int = 0
    quantized: int = 0

    @property
    def total(self) -> int:
        """All of the model's own."""
        return self.ordinary + self.experts

    @property
    def trained(self) -> int:
        """Those that have gradients."""
        return self.trained_ordinary + self.trained_experts


@dataclass(frozen=True)
class _Size:
    """The number of parameters of a tensor in one process.

    Attributes:
        layer: its number over the whole model; None of the embedding, the final norm and a language model's
            head.
    """

    entry: StoredTensor
    layer: int | None
    number: int
    is_bias: bool = False

    @property
    def is_of_experts(self) -> bool:
        return is_of_experts(self.entry)


def parameters_of_stage(
    spec: ModelSpec, parallel: ParallelConfig, stage: int, *, num_trained_layers: int | None = None
) -> Parameters:
    """The parameters of a process of pipeline stage `stage`, from 0, its virtual stages together.

    The reward head is not counted: a vector.

    Args:
        num_trained_layers: of a model whose first layers and embedding are frozen; None where nothing is.
    """
    sizes = _sizes_of_stage(spec, parallel, stage)
    adapters = _adapters_of_stage(spec, parallel, stage)
    quantized = [size for size in sizes if _is_quantized(size, spec)]
    trained = [size for size in sizes if spec.lora is None and _is_trained(size, spec, num_trained_layers)]
    made = [size.number for size in (*trained, *quantized) if size.layer is not None]
    return Parameters(
        ordinary=_sum_of(sizes, of_experts=False),
        experts=_sum_of(sizes, of_experts=True),
        trained_ordinary=_sum_of([*trained, *adapters], of_experts=False),
        trained_experts=_sum_of([*trained, *adapters], of_experts=True),
        largest=max(made, default=0),
        adapters=sum(size.number for size in adapters),
        quantized=sum(size.number for size in quantized),
    )


def _sum_of(sizes: Sequence[_Size], *, of_experts: bool) -> int:
    return sum(size.number for size in sizes if size.is_of_experts == of_experts)


def _sizes_of_stage(spec: ModelSpec, parallel: ParallelConfig, stage: int) -> list[_Size]:
    """The model's own tensors of a stage."""
    layers = layers_of_stage(spec.shape.num_layers, parallel, stage)
    sizes = [size for layer in layers for size in _sizes_of_layer(spec, layer, parallel)]
    is_first, is_last = stage == 0, stage == parallel.pipeline_model_parallel_size - 1
    ends = {EMBEDDING: is_first, FINAL_LAYERNORM: is_last and spec.post_layer_norm}
    ends[LM_HEAD] = is_last and not (is_first and spec.ties_embedding)
    for entry in tensors_of(spec).ends:
        if ends[entry.engine]:
            sizes += _sizes(entry, None, spec, parallel)
    return sizes


def _is_trained(size: _Size, spec: ModelSpec, num_trained_layers: int | None) -> bool:
    """Whether a tensor has a gradient, as `modellink_rm.model.frozen.freeze` has it."""
    if num_trained_layers is None:
        return True
    if size.layer is None:
        return size.entry.engine == FINAL_LAYERNORM and num_trained_layers > 0
    return size.layer >= spec.shape.num_layers - num_trained_layers


def _is_quantized(size: _Size, spec: ModelSpec) -> bool:
    return (
        spec.lora is not None
        and bool(spec.lora.quantization)
        and is_adaptable(size.entry)
        and not size.is_bias
    )


def _adapters_of_stage(spec: ModelSpec, parallel: ParallelConfig, stage: int) -> list[_Size]:
    """The adapters of a stage, A and B together."""
    if spec.lora is None:
        return []
    layers = layers_of_stage(spec.shape.num_layers, parallel, stage)
    found = []
    for layer, entry in adapted_linears(spec):
        if layer in layers:
            order = entry.row_order(spec.shape)
            copies, divisor = _division(entry, spec, parallel)
            columns, rows = order.columns or 0, sum(order.sizes)
            if order.divided == "columns":
                columns //= divisor
            else:
                rows //= divisor
            num_a = len(updated_matrices(entry, spec.lora))
            found.append(_Size(entry, layer, copies * spec.lora.rank * (num_a * columns + rows)))
    return found


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
def _sizes_of_layer(spec: ModelSpec, layer: int, parallel: ParallelConfig) -> tuple[_Size, ...]:
    """The tensors of a layer."""
    return tuple(
        size
        for entry in FAMILIES[spec.shape.family].tensors.layer
        if entry.is_in(spec.shape, layer)
        for size in _sizes(entry, layer, spec, parallel)
    )


def _sizes(entry: StoredTensor, layer: int | None, spec: ModelSpec, parallel: ParallelConfig) -> list[_Size]:
    """An entry's weight, and its bias if it has one, in one process."""
    order = entry.row_order(spec.shape)
    rows = spec.padded_vocab_size if order.is_padded else sum(order.sizes)
    copies, divisor = _division(entry, spec, parallel)
    weight = copies * rows * (order.columns or 1)
    sizes = [_Size(entry, layer, weight if order.divided == "nothing" else weight // divisor)]
    if entry.bias and getattr(spec.shape, entry.bias):
        number = copies * rows // (divisor if order.divided in ("rows", "each range") else 1)
        sizes.append(_Size(entry, layer, number, is_bias=True))
    return sizes


def _division(entry: StoredTensor, spec: ModelSpec, parallel: ParallelConfig) -> tuple[int, int]:
    """How many matrices of an entry a process has, and how many processes divide each."""
    if not is_of_experts(entry):
        return 1, parallel.tensor_model_parallel_size
    assert spec.shape.experts is not None
    copies = spec.shape.experts.number // parallel.expert_model_parallel_size
    return copies, parallel.expert_tensor_parallel_size
