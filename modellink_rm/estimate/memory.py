"""The memory that a run takes of each process, by the arithmetic of its precision, optimizer and schedule."""

from dataclasses import dataclass

from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import RECOMPUTES_GATES, RECOMPUTES_NORMS, PrecisionConfig
from modellink_rm.estimate.activations import (
    Operations,
    bytes_of_gate_gradient,
    bytes_of_input,
    bytes_of_layer,
)
from modellink_rm.estimate.parameters import Parameters, layers_of_stage, parameters_of_stage
from modellink_rm.model.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a kind of device adds to the tensors of a run.

    Attributes:
        base: bytes that a process takes there beside its tensors: libraries, communication.
        slack: bytes that the allocator holds for each byte of activations.
        gradient_copies: copies of the gradients while they are divided over replicas.
        has_fused_norms: see `Operations`, as `key_copies`.
    """

    base: int
    slack: float
    gradient_copies: float
    has_fused_norms: bool
    key_copies: float | None


# A CUDA context with cuBLAS takes about 0.8 GB, the buffers of nccl's groups about as much. Keys are those of
# [prompt | response | response], all three equally long.
CUDA = Device(base=1_600_000_000, slack=1.08, gradient_copies=0.0, has_fused_norms=True, key_copies=5 / 3)
# Measured by benchmarks/estimate.py: glibc keeps blocks that do not fit what comes next, and gloo's
# reduce_scatter copies the gradients.
CPU = Device(base=100_000_000, slack=1.6, gradient_copies=1.0, has_fused_norms=False, key_copies=None)


# Of a number in 4 bits, with its share of the scale of 64.
_NF4_BYTES = 0.5 + 4 / 64


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A run, as far as it decides about memory.

    Attributes:
        world_size: processes of the run.
        num_tokens: of its largest micro-batch, over all processes that share it.
        num_micro_batches: of a step, of one replica.
        num_trained_layers: the last layers, where the others and the embedding are frozen; 0 where only the
            head is trained.
        compiles_elementwise: whether norm, rotation and gate are compiled.
    """

    spec: ModelSpec
    parallel: ParallelConfig
    precision: PrecisionConfig
    optim: OptimConfig
    world_size: int
    num_tokens: int
    num_micro_batches: int
    device: Device
    compiles_elementwise: bool = False
    num_trained_layers: int | None = None

    @property
    def first_trained_layer(self) -> int:
        """The number of the first layer that is not frozen; with adapters of layers, 0."""
        num_layers = self.spec.shape.num_layers
        return 0 if self.num_trained_layers is None else num_layers - self.num_trained_layers


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: in the precision of the layers.
        gradients: the float32 sums.
        optimizer: AdamW's moments, and float32 weights beside bfloat16 ones.
        activations: what forward passes keep, at most.
        scratch: the largest temporary tensors, the libraries, and what the allocator cannot use.
        building: all that is held at a time before the first step.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    scratch: int
    building: int

    @property
    def peak(self) -> int:
        """The most that is held at a time."""
        steps = self.weights + self.gradients + self.optimizer + self.activations + self.scratch
        return max(steps, self.building)


def largest_micro_batch(max_tokens: int, seq_length: int) -> int:
    """Tokens of the largest micro-batch: a longer pair, whose sides share no prompt, gets its own."""
    return max(max_tokens, 2 * seq_length)


def memory_of(run: Workload) -> Memory:
    """The memory of the process that needs the most."""
    stages = range(run.parallel.pipeline_model_parallel_size)
    return max((memory_of_stage(run, stage) for stage in stages), key=lambda memory: memory.peak)


def memory_of_stage(run: Workload, stage: int) -> Memory:
    """The memory of each process of a pipeline stage, from 0."""
    parameters = parameters_of_stage(run.spec, run.parallel, stage, num_trained_layers=run.num_trained_layers)
    size = 2 if run.precision.bf16 else 4
    gradients = 4 * parameters.trained
    weights = size * (parameters.total - parameters.quantized + parameters.adapters)
    weights += round(_NF4_BYTES * parameters.quantized)
    activations, transient = _activations(run, stage)
    # The more micro-batches wait, the more of them find the blocks that others left.
    share = (1 + 1 / _chunks_in_flight(run, stage)) / 2
    # A gradient, before it is added to the float32 sum, or a matrix of 4 bits while it is multiplied.
    largest = parameters.largest * size
    slack = (run.device.slack - 1) * share * (activations + transient)
    is_divided = run.optim.divides_state(run.precision)
    has_replicas = run.parallel.data_parallel_size(run.world_size) * run.parallel.context_parallel_size > 1
    copies = run.device.gradient_copies * gradients if is_divided and has_replicas else 0
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=_optimizer_bytes(run, parameters),
        activations=round(activations),
        scratch=round(max(largest, transient) + slack + copies) + run.device.base,
        # The engine makes the buffers of divided weights beside them, and then moves these.
        building=weights + (size * parameters.trained if is_divided else 0) + gradients + run.device.base,
    )


def _optimizer_bytes(run: Workload, parameters: Parameters) -> int:
    """Bytes of the moments, and of the float32 weights that updates are made in."""
    size = 12 if run.precision.bf16 else 8
    if not run.optim.divides_state(run.precision):
        return size * parameters.trained
    stage_size = run.world_size // run.parallel.pipeline_model_parallel_size
    copies = stage_size // run.parallel.tensor_model_parallel_size
    expert_copies = stage_size // run.parallel.expert_group_size
    return size * (
        -(-parameters.trained_ordinary // copies) + -(-parameters.trained_experts // expert_copies)
    )


def _activations(run: Workload, stage: int) -> tuple[float, float]:
    """Bytes that are kept for backward passes, and of temporary tensors beside them, at most."""
    shape, parallel = run.spec.shape, run.parallel
    operations = Operations(
        element_bytes=2 if run.precision.bf16 else 4,
        has_fused_norms=run.device.has_fused_norms or run.compiles_elementwise,
        has_fused_gates=run.compiles_elementwise,
        key_copies=run.device.key_copies,
        recomputes_norms=RECOMPUTES_NORMS in run.precision.recomputed_modules,
        recomputes_gates=not run.precision.recomputed_modules.isdisjoint(RECOMPUTES_GATES),
    )
    layers = layers_of_stage(shape.num_layers, parallel, stage)
    num_chunks = parallel.num_virtual_stages(shape.num_layers)
    whole = [bytes_of_layer(shape, layer, parallel, operations) for layer in layers]
    of_layers = [
        0.0 if layer < run.first_trained_layer else size for layer, size in zip(layers, whole, strict=True)
    ]
    of_input = bytes_of_input(shape, parallel, operations)
    kept, recomputed = _recomputed(run.precision, of_layers, of_input, num_chunks)
    # A stage's output is kept until its backward pass.
    kept += of_input * num_chunks if parallel.pipeline_model_parallel_size > 1 else 0.0
    transient = 2 * of_input
    if recomputed:
        transient = recomputed + bytes_of_gate_gradient(shape, parallel, operations)
    frozen = [size for layer, size in zip(layers, whole, strict=True) if layer < run.first_trained_layer]
    # A frozen layer has what others keep while it computes, before its micro-batch keeps anything.
    transient = max(transient, max(frozen, default=0.0) - kept / num_chunks)
    return run.num_tokens * kept / num_chunks * _chunks_in_flight(run, stage), run.num_tokens * transient


def _recomputed(
    precision: PrecisionConfig, of_layers: list[float], of_input: float, num_chunks: int
) -> tuple[float, float]:
    """Bytes of each token that a stage keeps, and those of the group that is recomputed at a time."""
    if precision.recompute_granularity != "full":
        return sum(of_layers), 0.0
    group, of_chunk = precision.recompute_num_layers, len(of_layers) // num_chunks
    chunks = [of_layers[start : start + of_chunk] for start in range(0, len(of_layers), of_chunk)]
    if precision.recompute_method == "block":
        kept = sum(group * of_input + sum(chunk[group:]) for chunk in chunks)
        return kept, max(max(chunk[:group]) for chunk in chunks)
    groups = [chunk[start : start + group] for chunk in chunks for start in range(0, of_chunk, group)]
    return len(groups) * of_input, max(map(sum, groups))


def _chunks_in_flight(run: Workload, stage: int) -> int:
    """Forward passes of a chunk that wait for their backward pass, at most.

    As in megatron-core 0.16.1, pipeline_parallel/schedules.py: one forward and one backward pass in turns
    after `num_warmup_microbatches` forward passes.
    """
    num_chunks = run.parallel.num_virtual_stages(run.spec.shape.num_layers)
    behind = run.parallel.pipeline_model_parallel_size - stage - 1
    warmup = behind
    if num_chunks > 1:
        warmup = 2 * behind + (num_chunks - 1) * run.parallel.pipeline_model_parallel_size
    return min(warmup + 1, run.num_micro_batches * num_chunks)
