"""Parallel sizes, micro-batches and recomputation with which a run fits its GPUs and is fastest."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from modellink_rm.base.errors import UserError
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig
from modellink_rm.config.optim import OptimConfig
from modellink_rm.config.parallel import ParallelConfig
from modellink_rm.config.precision import PrecisionConfig
from modellink_rm.estimate.gpus import GIB, Cluster
from modellink_rm.estimate.memory import CPU, CUDA, Memory, Workload, largest_micro_batch, memory_of
from modellink_rm.estimate.step_time import StepTime, step_time
from modellink_rm.model.adapter_targets import check_quantized_sizes, new_adapters
from modellink_rm.model.fits import check_parallel_fits_shape, check_trained_layers
from modellink_rm.model.resolve import padded_vocab_size
from modellink_rm.model.shape import ModelShape
from modellink_rm.model.spec import ModelSpec

# The share of a device's memory that is planned with: the driver and fragments take some of it.
USABLE_SHARE = 0.92
_MOST_TENSOR_PARALLEL = 8
_MOST_CONTEXT_PARALLEL = 8
_MOST_TOKENS = 16384  # beyond, products get no faster
_MOST_NODES = 128  # that a refusal looks at
_SHORTEST = 256  # tokens of a sequence that a refusal looks at


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to run, with what it takes.

    Attributes:
        max_tokens: --max-tokens-per-micro-batch.
    """

    run: Workload
    max_tokens: int
    memory: Memory
    time: StepTime

    def flags(self) -> list[str]:
        """The trainer's flags for it, in pairs of name and value or alone."""
        parallel, precision = self.run.parallel, self.run.precision
        sizes = {
            "--tensor-model-parallel-size": parallel.tensor_model_parallel_size,
            "--pipeline-model-parallel-size": parallel.pipeline_model_parallel_size,
            "--context-parallel-size": parallel.context_parallel_size,
            "--expert-model-parallel-size": parallel.expert_model_parallel_size,
        }
        words = ["--bf16"] if precision.bf16 else []
        words += [f"{name} {size}" for name, size in sizes.items() if size > 1]
        words += ["--sequence-parallel"] if parallel.sequence_parallel else []
        words += ["--use-distributed-optimizer"] if self.run.optim.use_distributed_optimizer else []
        if precision.recompute_granularity is not None:
            words.append(f"--recompute-granularity {precision.recompute_granularity}")
        if self.run.num_trained_layers is not None:
            last = self.run.num_trained_layers
            words.append(f"--train-last-n-layers {last}" if last else "--freeze-base")
        return [*words, f"--max-tokens-per-micro-batch {self.max_tokens}"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be trained, where, and what is given of how.

    Attributes:
        model: its flags, for the vocabulary's padding.
        config: the other flags.
        lora: those of adapters.
    """

    shape: ModelShape
    model: ModelConfig
    config: EstimateConfig
    cluster: Cluster
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def usable(self) -> float:
        """Bytes of a device that are planned with."""
        return self.cluster.gpu.memory * USABLE_SHARE


def best_choice(question: Question) -> Choice:
    """The fastest choice that fits.

    Raises:
        UserError: none fits, with what would, or the sizes that are given cannot be.
    """
    check_trained_layers(
        question.config.num_trained_layers, question.shape, has_adapters=bool(question.lora.given)
    )
    choices = list(_choices(question))
    if not choices:
        raise UserError(_impossible(question))
    fitting = [choice for choice in choices if choice.memory.peak <= question.usable]
    if not fitting:
        raise UserError(_refusal(question, choices))
    return min(fitting, key=_cost)


def _cost(choice: Choice) -> tuple[float, ...]:
    """The time; of equal ones the simplest, then the one with less memory."""
    parallel = choice.run.parallel
    return (
        round(choice.time.seconds, 9),
        parallel.tensor_model_parallel_size * parallel.context_parallel_size,
        parallel.pipeline_model_parallel_size * parallel.expert_model_parallel_size,
        choice.memory.peak,
    )


def _choices(question: Question) -> Iterator[Choice]:
    """Every way to run that the model and the number of processes allow."""
    config, cluster = question.config, question.cluster
    for parallel in _parallel_sizes(question):
        num_replicas = parallel.data_parallel_size(cluster.world_size)
        spec = _spec(question, parallel)
        pairs = -(-config.global_batch_size // num_replicas)
        for precision, max_tokens in itertools.product(_precisions(question), _token_budgets(config, pairs)):
            run = Workload(
                spec=spec,
                parallel=parallel,
                precision=precision,
                optim=OptimConfig(use_distributed_optimizer=num_replicas > 1 and not cluster.is_cpu),
                world_size=cluster.world_size,
                num_tokens=largest_micro_batch(max_tokens, config.seq_length),
                num_micro_batches=max(1, -(-pairs * 2 * _mean_length(config) // max_tokens)),
                device=CPU if cluster.is_cpu else CUDA,
                compiles_elementwise=not cluster.is_cpu,
                num_trained_layers=config.num_trained_layers,
            )
            time = step_time(
                run, cluster, batch_size=config.global_batch_size, mean_length=_mean_length(config)
            )
            yield Choice(run=run, max_tokens=max_tokens, memory=memory_of(run), time=time)


def _spec(question: Question, parallel: ParallelConfig) -> ModelSpec:
    """The model as it is trained at these sizes."""
    tp = parallel.tensor_model_parallel_size
    return ModelSpec(
        shape=question.shape,
        padded_vocab_size=padded_vocab_size(question.model, question.shape, tp),
        post_layer_norm=question.model.post_layer_norm,
        lora=new_adapters(question.lora, question.shape),
    )


def _mean_length(config: EstimateConfig) -> int:
    return config.mean_length or config.seq_length


def _precisions(question: Question) -> Iterator[PrecisionConfig]:
    config = question.config
    bf16 = (config.dtype or ("fp32" if question.cluster.is_cpu else "bf16")) == "bf16"
    for granularity in (None, "selective", "full"):
        if config.recompute_granularity in (None, granularity or "none"):
            yield PrecisionConfig(bf16=bf16, recompute_granularity=granularity)


def _token_budgets(config: EstimateConfig, pairs: int) -> Sequence[int]:
    """Tokens of a micro-batch: a pair, or as many pairs as make products fast and a replica has."""
    if config.max_tokens_per_micro_batch is not None:
        return [config.max_tokens_per_micro_batch]
    longest = 2 * config.seq_length
    most = min(_MOST_TOKENS, pairs * longest)
    return sorted({longest, *(longest * 2**n for n in range(16) if longest * 2**n <= most)})


def _parallel_sizes(question: Question) -> Iterator[ParallelConfig]:
    """Sizes that divide the model and the processes, and leave each replica a pair."""
    config, cluster, shape = question.config, question.cluster, question.shape
    world, experts = cluster.world_size, shape.experts
    sizes = itertools.product(
        _given_or(config.tensor_model_parallel_size, _divisors(cluster.per_node, _MOST_TENSOR_PARALLEL)),
        _given_or(config.pipeline_model_parallel_size, _divisors(shape.num_layers, world)),
        _given_or(config.context_parallel_size, _divisors(world, _MOST_CONTEXT_PARALLEL)),
        _given_or(
            config.expert_model_parallel_size,
            _divisors(experts.number, world) if experts is not None else [1],
        ),
    )
    for tp, pp, cp, ep in sizes:
        parallel = ParallelConfig(
            tensor_model_parallel_size=tp,
            pipeline_model_parallel_size=pp,
            context_parallel_size=cp,
            expert_model_parallel_size=ep,
            sequence_parallel=tp > 1 and not cluster.is_cpu,
        )
        try:
            check_parallel_fits_shape(parallel, shape)
            check_quantized_sizes(_spec(question, parallel), parallel)
            num_replicas = parallel.data_parallel_size(world)
        except UserError:
            continue
        if num_replicas <= config.global_batch_size:
            yield parallel


def _given_or(given: int | None, choices: list[int]) -> list[int]:
    return choices if given is None else [given]


def _divisors(number: int, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]


def _impossible(question: Question) -> str:
    """Why nothing could be tried: the first rule that the given sizes break."""
    config, world = question.config, question.cluster.world_size
    given = ParallelConfig(
        tensor_model_parallel_size=config.tensor_model_parallel_size or 1,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size or 1,
        context_parallel_size=config.context_parallel_size or 1,
        expert_model_parallel_size=config.expert_model_parallel_size or 1,
    )
    try:
        check_parallel_fits_shape(given, question.shape)
        check_quantized_sizes(_spec(question, given), given)
        num_replicas = given.data_parallel_size(world)
    except UserError as error:
        return str(error)
    return (
        f"--global-batch-size {config.global_batch_size} is below the {num_replicas} replicas that "
        f"--gpus {question.cluster} hold: each needs a pair in every step"
    )


def _refusal(question: Question, choices: Sequence[Choice]) -> str:
    """One line: what is needed at least, and what would fit."""
    least = min(choices, key=lambda choice: choice.memory.peak)
    cluster = question.cluster
    line = (
        f"the model does not fit --gpus {cluster}: at least {least.memory.peak / GIB:.1f} GiB are needed on "
        f"each ({' '.join(least.flags())}), and {question.usable / GIB:.1f} of "
        f"{cluster.gpu.memory / GIB:.1f} GiB can be planned with"
    )
    remedies = [_free_sizes(question), _more_gpus(question), _shorter(question)]
    found = [remedy for remedy in remedies if remedy is not None]
    return f"{line}; it would fit with {', or with '.join(found)}" if found else f"{line}; take larger ones"


def _more_gpus(question: Question) -> str | None:
    """The smallest number of such devices that fits."""
    cluster = question.cluster
    if cluster.is_cpu:
        return None
    larger = [
        dataclasses.replace(cluster, nodes=1, per_node=number)
        for number in (2, 4, 8)
        if number > cluster.world_size
    ]
    per_node = max(cluster.per_node, 8)
    larger += [
        dataclasses.replace(cluster, nodes=nodes, per_node=per_node)
        for nodes in (2**n for n in range(1, _MOST_NODES.bit_length()))
        if nodes * per_node > cluster.world_size
    ]
    for candidate in larger:
        config = question.config
        batch = max(config.global_batch_size, candidate.world_size)
        if _fits(
            dataclasses.replace(
                question,
                cluster=candidate,
                config=dataclasses.replace(config, global_batch_size=batch),
            )
        ):
            return f"--gpus {candidate}"
    return None


def _shorter(question: Question) -> str | None:
    """The longest half, quarter, ... of the sequence length that fits."""
    config, length = question.config, question.config.seq_length // 2
    while length >= _SHORTEST:
        shorter = dataclasses.replace(config, seq_length=length, mean_length=None)
        if _fits(dataclasses.replace(question, config=shorter)):
            return f"--seq-length {length}"
        length //= 2
    return None


def _free_sizes(question: Question) -> str | None:
    """The sizes that would be chosen without those that are given."""
    config = question.config
    free = dataclasses.replace(
        config,
        tensor_model_parallel_size=None,
        pipeline_model_parallel_size=None,
        context_parallel_size=None,
        expert_model_parallel_size=None,
        max_tokens_per_micro_batch=None,
        recompute_granularity=None,
    )
    if free == config:
        return None
    free_question = dataclasses.replace(question, config=free)
    fitting = [choice for choice in _choices(free_question) if choice.memory.peak <= question.usable]
    return " ".join(min(fitting, key=_cost).flags()) if fitting else None


def _fits(question: Question) -> bool:
    return any(choice.memory.peak <= question.usable for choice in _choices(question))
