"""The choice of a run's kernels, with reasons."""

import dataclasses
import importlib.util
import inspect
from collections.abc import Sequence

import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform, is_cpu
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, MakeKernel, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece, with_window
from modellink_rm.model.attention.softmax import Softmax
from modellink_rm.model.config import Kernels
from modellink_rm.model.shape import ModelShape

AUTO = "auto"
_LOW_PRECISION_ONLY = ("varlen", "flash")
_WITH_DROPOUT = ("reference", "sdpa", "flash")
_WITH_SOFTCAP = ("reference", "flex", "flash")
_WITH_SINKS = ("reference", "flex")
_WITH_BOTH_ON_A_CPU = ("sdpa",)  # without dropout
# Two pieces with a shared prefix, the second not adjacent to it, and one without a prefix.
_PIECES = (Piece((0, 9), ((0, 9),)), Piece((9, 14), ((0, 4), (9, 14))), Piece((14, 21), ((14, 21),)))
# Largest difference from the reference in float64, relative to its largest value: 8 and 24 bits of
# mantissa, and some room for sums in another order.
_TOLERANCES = {torch.bfloat16: 3e-2, torch.float32: 1e-4}
_SHORT_WINDOW = 3  # of the pieces above
# Compiling takes some 20 seconds on a CPU the first time and 3 after that, and saves some 2 % of
# every step (docs/performance.md): from here on it pays where a step takes two seconds or more.
STEPS_WORTH_COMPILING = 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Needs:
    """What an attention kernel must compute.

    Attributes:
        dropout: probability that a weight is dropped.
        softcap: of the logits; None for none.
        has_windows: whether a layer has a sliding window.
        has_sinks: whether each head has a sink.
    """

    dtype: torch.dtype
    dropout: float
    softcap: float | None
    has_windows: bool
    has_sinks: bool


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

    Args:
        dtype: of the layers.
        dropout: of attention weights.
        num_steps: optimizer steps of the run; 0 if it does not train.

    Raises:
        UserError: what is requested does not work here.
    """
    needs = _Needs(
        dtype=dtype,
        dropout=dropout,
        softcap=shape.attention_softcap,
        has_windows=any(window is not None for window in shape.windows),
        has_sinks=shape.attention_sinks,
    )
    return Kernels(
        attention=_choose_attention(config.attention_backend, platform, needs),
        compiles_elementwise=_choose_compile(config.compile, platform, num_steps),
    )


def _choose_compile(requested: str, platform: Platform, num_steps: int) -> bool:
    missing = platform.missing_compiler()
    if requested == "always":
        if missing is not None:
            raise UserError(f"--compile always: {missing}; leave the flag out to run without")
        info("elementwise kernels: compiled, because --compile asks for it; the first step takes longer")
        return True
    if requested == "never" or num_steps < STEPS_WORTH_COMPILING:
        return False
    if missing is not None:
        info(f"elementwise kernels: not compiled, because {missing}")
        return False
    info(
        f"elementwise kernels: compiled, because the run has {num_steps} steps ({STEPS_WORTH_COMPILING} or "
        "more); the first step takes longer"
    )
    return True


def _choose_attention(requested: str, platform: Platform, needs: _Needs) -> str:
    """Name of the requested kernel, or with "auto" of the first one that works on the platform; logged.

    On a GPU a kernel is tried on a few tokens and compared with the reference before it is used.

    Raises:
        UserError: the requested kernel does not work here.
    """
    if requested != AUTO:
        obstacle = _obstacle(requested, platform, needs)
        if obstacle is not None:
            raise UserError(
                f"--attention-backend {requested}: {obstacle}; leave the flag out to let one be chosen"
            )
        info(f"attention: {requested}, because --attention-backend asks for it")
        return requested
    passed_over: list[str] = []
    for name in (*platform.attention_backends, "reference"):
        obstacle = _obstacle(name, platform, needs)
        if obstacle is None:
            reason = "; ".join(passed_over) or f"it is the first choice on {platform.name}"
            info(f"attention: {name}, because {reason}")
            return name
        passed_over.append(f"{name}: {obstacle}")
    raise UserError(f"no attention kernel works here: {'; '.join(passed_over)}")


def _obstacle(name: str, platform: Platform, needs: _Needs) -> str | None:
    """Why a kernel cannot be used here; None if it can."""
    if name not in (*platform.attention_backends, "reference"):
        return f"it does not run on {platform.name}"
    if name in _LOW_PRECISION_ONLY and needs.dtype == torch.float32:
        return "it needs --bf16"
    if needs.dropout and name not in _WITH_DROPOUT:
        return "it has no --attention-dropout"
    obstacle = _missing_in_kernel(name, platform, needs) or _missing(name, needs)
    if obstacle is not None:
        return obstacle
    if platform.is_tested:
        return None
    try:
        difference = max(
            difference_from_reference(
                ATTENTION_KERNELS[name],
                platform.device,
                needs.dtype,
                pieces=with_window(_PIECES, window),
                softcap=needs.softcap,
                has_sinks=needs.has_sinks,
            )
            for window in ((None, _SHORT_WINDOW) if needs.has_windows else (None,))
        )
    except Exception as error:  # a kernel for another GPU, a compiler that is missing: any kind
        return f"it fails here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    if not difference < _TOLERANCES[needs.dtype]:
        return f"it differs from the reference by {difference:.1e} here"
    return None


def _missing_in_kernel(name: str, platform: Platform, needs: _Needs) -> str | None:
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


def _missing(name: str, needs: _Needs) -> str | None:
    """What is not installed, or in a version that is too old; None if nothing is missing."""
    if name == "flash":
        if importlib.util.find_spec("flash_attn") is None:
            return "the package flash-attn is not installed"
        from flash_attn import flash_attn_varlen_func

        parameters = inspect.signature(flash_attn_varlen_func).parameters
        wanted = {"window_size": needs.has_windows, "softcap": needs.softcap is not None}
        absent = [
            parameter for parameter, is_needed in wanted.items() if is_needed and parameter not in parameters
        ]
        if absent:
            return f"the installed flash-attn has no {' and no '.join(absent)}, which this model needs"
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
    return max(
        float((one.double().cpu() - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )


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
