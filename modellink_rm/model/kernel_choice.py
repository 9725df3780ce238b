"""The choice of a run's kernels, with reasons."""

import dataclasses
import importlib.util
import inspect
from collections.abc import Iterable, Sequence

import torch

from modellink_rm.base.errors import AgreedError, UserError
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, gives_up_flash_attention_3, is_cpu
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, MakeKernel, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece, with_window
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.config import Kernels
from modellink_rm.model.layers.elementwise import compiled, rms_norm
from modellink_rm.model.shape import ModelShape
from modellink_rm.parallel.groups import of_every_process

AUTO = "auto"
_LOW_PRECISION_ONLY = ("varlen", "flash")
_WITH_DROPOUT = ("reference", "sdpa", "flash")
_WITH_SOFTCAP = ("reference", "flex", "flash")
_WITH_SINKS = ("reference", "flex")
_WITH_BOTH_ON_A_CPU = ("sdpa",)  # without dropout
# Two pieces with a shared prefix, the second not adjacent to it, and one without a prefix: several blocks of
# every kernel.
_PIECES = (
    Piece((0, 300), ((0, 300),)),
    Piece((300, 420), ((0, 170), (300, 420))),
    Piece((420, 441), ((420, 441),)),
)
# One query each, as in the scored layer; flash attention has a way of its own for these.
_SCORED_PIECES = (
    Piece((0, 1), ((0, 300),)),
    Piece((1, 2), ((0, 170), (300, 420))),
    Piece((2, 3), ((420, 421),)),
)
# Largest difference from the reference in float64, relative to its largest value: 8 and 24 bits of
# mantissa, and some room for sums in another order.
_TOLERANCES = {torch.bfloat16: 3e-2, torch.float32: 1e-4}
_SHORT_WINDOW = 100  # of the pieces above
_MOST_GROUPS_TRIED = 2  # all do the same
# Compiling takes some 20 seconds on a CPU the first time and 3 after that, and saves some 2 % of
# every step (docs/performance.md): from here on it pays where a step takes two seconds or more.
STEPS_WORTH_COMPILING = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionNeeds:
    """What an attention kernel must compute.

    Attributes:
        head_dim: size of one head, as kernels get it.
        heads_per_group: query heads that share one key/value head.
        num_groups: key/value heads of the model.
        dropout: probability that a weight is dropped.
        softcap: of the logits; None for none.
        has_windows: whether a layer has a sliding window.
        has_sinks: whether each head has a sink.
        deterministic: whether a second run must give the same bits.
    """

    dtype: torch.dtype
    head_dim: int
    heads_per_group: int
    num_groups: int
    dropout: float
    softcap: float | None
    has_windows: bool
    has_sinks: bool
    deterministic: bool


def attention_needs(
    shape: ModelShape, *, dtype: torch.dtype, dropout: float, deterministic: bool
) -> AttentionNeeds:
    """What a model of that shape needs of an attention kernel."""
    latent = shape.latent
    return AttentionNeeds(
        dtype=dtype,
        head_dim=shape.kv_channels if latent is None else max(shape.kv_channels, latent.value_channels),
        heads_per_group=shape.heads_per_group if latent is None else 1,
        num_groups=shape.num_query_groups if latent is None else shape.num_attention_heads,
        dropout=dropout,
        softcap=shape.attention_softcap,
        has_windows=any(window is not None for window in shape.windows),
        has_sinks=shape.attention_sinks,
        deterministic=deterministic,
    )


def choose_kernels(
    config: KernelConfig,
    platform: Platform,
    *,
    shape: ModelShape,
    dtype: torch.dtype,
    dropout: float,
    num_steps: int,
) -> Kernels:
    """The kernels of a run, logged with the reasons.

    A collective where process groups run: what fails in one process is not used in any.

    Args:
        dtype: of the layers.
        dropout: of attention weights.
        num_steps: optimizer steps of the run; 0 if it does not train.

    Raises:
        AgreedError: what is requested does not work here.
    """
    needs = attention_needs(shape, dtype=dtype, dropout=dropout, deterministic=config.deterministic)
    return Kernels(
        attention=_choose_attention(config.attention_backend, platform, needs),
        compiles_elementwise=_choose_compile(
            config.compile, platform, num_steps, hidden_size=shape.hidden_size, dtype=dtype
        ),
    )


def check_requested_kernels(
    config: KernelConfig, platform: Platform, *, shape: ModelShape, dtype: torch.dtype, dropout: float
) -> None:
    """Check what can be known of the requested kernels without trying them, before processes wait for others.

    Raises:
        UserError: what is requested does not work here.
    """
    if config.attention_backend != AUTO:
        needs = attention_needs(shape, dtype=dtype, dropout=dropout, deterministic=config.deterministic)
        obstacle = _known_obstacle(config.attention_backend, platform, needs)
        if obstacle is not None:
            raise UserError(_refusal(config.attention_backend, obstacle))
    if config.compile == "always" and (missing := platform.missing_compiler()) is not None:
        raise UserError(f"--compile always: {missing}; leave the flag out to run without")


def _choose_compile(
    requested: str, platform: Platform, num_steps: int, *, hidden_size: int, dtype: torch.dtype
) -> bool:
    is_worth_it = num_steps >= (STEPS_WORTH_COMPILING if is_cpu(platform.device) else 1)
    if requested == "never" or (requested == AUTO and not is_worth_it):
        return False
    obstacle = _of_any_process(
        platform.missing_compiler() or compiler_obstacle(platform.device, dtype, hidden_size=hidden_size)
    )
    if requested == "always":
        if obstacle is not None:
            raise AgreedError(f"--compile always: {obstacle}; leave the flag out to run without")
        info("elementwise kernels: compiled, because --compile asks for it; the first step takes longer")
        return True
    if obstacle is not None:
        info(f"elementwise kernels: not compiled, because {obstacle}")
        return False
    steps = f"the run has {num_steps} steps ({STEPS_WORTH_COMPILING} or more)"
    reason = steps if is_cpu(platform.device) else f"that saves time in every step on {platform.name}"
    info(f"elementwise kernels: compiled, because {reason}; the first step takes longer")
    return True


def compiler_obstacle(device: torch.device, dtype: torch.dtype, *, hidden_size: int) -> str | None:
    """Why torch.compile fails with a norm of the model's size, forward and backward; None if it works.

    The kernels are kept: the first step does not compile them again.
    """
    states = torch.ones(4, 1, hidden_size, dtype=dtype, device=device, requires_grad=True)
    weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=dtype, device=device))
    try:
        compiled(rms_norm)(states, weight, 1e-5).sum().backward()
    except (
        Exception
    ) as error:  # a compiler without headers, a full disk, a GPU that it does not know: any kind
        return f"torch.compile fails here ({_first_line(error)})"
    return None


def _choose_attention(requested: str, platform: Platform, needs: AttentionNeeds) -> str:
    """Name of the requested kernel, or with "auto" of the first one that works on the platform; logged.

    On a GPU a kernel is tried on some hundred tokens and compared with the reference before it is used.

    Raises:
        AgreedError: the requested kernel does not work here.
    """
    if requested != AUTO:
        obstacle = _of_any_process(attention_obstacle(requested, platform, needs))
        if obstacle is not None:
            raise AgreedError(_refusal(requested, obstacle))
        info(f"attention: {requested}, because --attention-backend asks for it")
        return requested
    passed_over: list[str] = []
    for name in attention_kernels(platform):
        obstacle = _of_any_process(attention_obstacle(name, platform, needs))
        if obstacle is None:
            reason = "; ".join(passed_over) or f"it is the first choice on {platform.name}"
            info(f"attention: {name}, because {reason}")
            return name
        passed_over.append(f"{name}: {obstacle}")
    raise AgreedError(f"no attention kernel works here: {'; '.join(passed_over)}")


def _refusal(name: str, obstacle: str) -> str:
    return f"--attention-backend {name}: {obstacle}; leave the flag out to let one be chosen"


def attention_kernels(platform: Platform) -> tuple[str, ...]:
    """The kernels among which one is chosen, the first choice first."""
    return (*platform.attention_backends, "reference")


def _of_any_process(obstacle: str | None) -> str | None:
    """The obstacle of the first process that has one, on every process; a collective where groups run."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return obstacle
    found = enumerate(of_every_process(obstacle))
    return next((f"{one} (rank {rank})" if rank else one for rank, one in found if one is not None), None)


def attention_obstacle(name: str, platform: Platform, needs: AttentionNeeds) -> str | None:
    """Why a kernel cannot be used here; None if it can. On a GPU it is tried."""
    obstacle = _known_obstacle(name, platform, needs)
    if obstacle is not None or platform.is_tested:
        return obstacle
    obstacle = _obstacle_of_trial(name, platform, needs)
    if obstacle is not None and name == "varlen" and gives_up_flash_attention_3():
        obstacle = _obstacle_of_trial(name, platform, needs)
    return obstacle


def _known_obstacle(name: str, platform: Platform, needs: AttentionNeeds) -> str | None:
    """Why a kernel cannot be used here, as far as it is known without trying it; None if nothing is."""
    if name not in attention_kernels(platform):
        return f"it does not run on {platform.name}"
    if name in _LOW_PRECISION_ONLY and needs.dtype == torch.float32:
        return "it needs --bf16"
    if needs.dropout and name not in _WITH_DROPOUT:
        return "it has no --attention-dropout"
    return _missing_in_kernel(name, platform, needs) or _missing(name, needs)


def _obstacle_of_trial(name: str, platform: Platform, needs: AttentionNeeds) -> str | None:
    """Why a kernel's numbers cannot be used, of heads like the model's; None if they can."""
    groups = min(needs.num_groups, _MOST_GROUPS_TRIED)
    try:
        difference = _largest(
            difference_from_reference(
                ATTENTION_KERNELS[name],
                platform.device,
                needs.dtype,
                pieces=with_window(pieces, window),
                heads=groups * needs.heads_per_group,
                groups=groups,
                head_dim=needs.head_dim,
                softcap=needs.softcap,
                has_sinks=needs.has_sinks,
            )
            for pieces in (_PIECES, _SCORED_PIECES)
            for window in ((None, _SHORT_WINDOW) if needs.has_windows else (None,))
        )
    except Exception as error:  # a kernel for another GPU, a compiler that is missing: any kind
        return f"it fails here ({_first_line(error)})"
    if not difference < _TOLERANCES[needs.dtype]:
        return f"it differs from the reference by {difference:.1e} here"
    return None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _missing_in_kernel(name: str, platform: Platform, needs: AttentionNeeds) -> str | None:
    """The part of the model's attention that a kernel does not have here, or None."""
    if name in _WITH_BOTH_ON_A_CPU and is_cpu(platform.device):
        has_both, where = not needs.dropout, " with --attention-dropout"
    else:
        has_both, where = False, ""
    if needs.softcap is not None and name not in _WITH_SOFTCAP and not has_both:
        return f"it has no softcap of logits, which this model has{where}"
    if needs.has_sinks and name not in _WITH_SINKS and not has_both:
        return f"it has no attention sinks, which this model has{where}"
    return None


def _missing(name: str, needs: AttentionNeeds) -> str | None:
    """What is not installed, or in a version that is too old; None if nothing is missing."""
    if name == "flash":
        if importlib.util.find_spec("flash_attn") is None:
            return "the package flash-attn is not installed"
        try:
            from flash_attn import flash_attn_varlen_func
        except (ImportError, OSError) as error:  # built for another torch or another CUDA
            return f"the installed flash-attn cannot be imported ({_first_line(error)})"

        parameters = inspect.signature(flash_attn_varlen_func).parameters
        wanted = {
            "window_size": needs.has_windows,
            "softcap": needs.softcap is not None,
            "deterministic": needs.deterministic,
        }
        absent = [
            parameter for parameter, is_needed in wanted.items() if is_needed and parameter not in parameters
        ]
        if absent:
            return f"the installed flash-attn has no {' and no '.join(absent)}, which this run needs"
    if name == "varlen":
        if importlib.util.find_spec("torch.nn.attention.varlen") is None:
            return f"torch {torch.__version__} does not have it"
        from torch.nn.attention.varlen import varlen_attn

        if not {"window_size", "enable_gqa", "scale"} <= inspect.signature(varlen_attn).parameters.keys():
            return f"torch {torch.__version__} has an older form of it"
    return None


def difference_from_reference(
    make_kernel: MakeKernel,
    device: torch.device,
    dtype: torch.dtype,
    *,
    pieces: Sequence[Piece] = _PIECES,
    heads: int = 4,
    groups: int = 2,
    head_dim: int = 64,
    softcap: float | None = None,
    has_sinks: bool = False,
    seed: int = 0,
) -> float:
    """Largest difference of output and gradients from the reference in float64, relative to its values.

    NaN if any number of them is.

    Args:
        seed: of the random inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    num_queries = pieces[-1].queries[1]
    num_keys = max(end for piece in pieces for _, end in piece.keys)
    shapes = [(num_queries, heads), (num_keys, groups), (num_keys, groups), (num_queries, heads)]
    # Rounded to the kernel's dtype first, so that both see the same numbers.
    inputs = [torch.randn(*shape, head_dim, generator=generator).to(dtype) for shape in shapes]
    if has_sinks:
        inputs.insert(0, torch.randn(heads, generator=generator).to(dtype))
    expected = _output_and_gradients(
        ReferenceAttention, [tensor.double() for tensor in inputs], pieces, softcap
    )
    found = _output_and_gradients(make_kernel, [tensor.to(device) for tensor in inputs], pieces, softcap)
    return _largest(
        float((one.double().cpu() - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )


def _largest(values: Iterable[float]) -> float:
    """The largest value; NaN if one is, which python's own maximum passes over."""
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def _output_and_gradients(
    make_kernel: MakeKernel, inputs: Sequence[torch.Tensor], pieces: Sequence[Piece], softcap: float | None
) -> list[torch.Tensor]:
    """Of inputs (sinks if any, query, key, value, gradient of the output)."""
    *states, output_gradient = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in states]
    *sinks, query, key, value = leaves
    kernel = make_kernel(pieces, query.device, query.dtype)
    softmax = Softmax(scale=query.shape[-1] ** -0.5, softcap=softcap, sinks=sinks[0] if sinks else None)
    output = kernel(query, key, value, softmax)
    return [output.detach(), *torch.autograd.grad(output, leaves, output_gradient)]
