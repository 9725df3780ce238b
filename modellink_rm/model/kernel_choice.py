"""The choice of a run's kernels, with reasons."""

import importlib.util
import inspect
from collections.abc import Sequence

import torch

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info
from modellink_rm.base.platform import Platform
from modellink_rm.config.kernels import KernelConfig
from modellink_rm.model.attention.kernels import ATTENTION_KERNELS, MakeKernel, ReferenceAttention
from modellink_rm.model.attention.pieces import Piece
from modellink_rm.model.config import Kernels

AUTO = "auto"
_LOW_PRECISION_ONLY = ("varlen", "flash")
_WITH_DROPOUT = ("reference", "sdpa", "flash")
# Two pieces with a shared prefix, the second not adjacent to it, and one without a prefix.
_PIECES = (Piece((0, 9), ((0, 9),)), Piece((9, 14), ((0, 4), (9, 14))), Piece((14, 21), ((14, 21),)))
# Largest difference from the reference in float64, relative to its largest value: 8 and 24 bits of
# mantissa, and some room for sums in another order.
_TOLERANCES = {torch.bfloat16: 3e-2, torch.float32: 1e-4}
# Compiling takes some 20 seconds on a CPU the first time and 3 after that, and saves some 2 % of
# every step (docs/performance.md): from here on it pays where a step takes two seconds or more.
STEPS_WORTH_COMPILING = 500


def choose_kernels(
    config: KernelConfig, platform: Platform, *, dtype: torch.dtype, dropout: float, num_steps: int
) -> Kernels:
    """The kernels of a run, logged with the reasons.

    Args:
        dtype: of the layers.
        dropout: of attention weights.
        num_steps: optimizer steps of the run; 0 if it does not train.

    Raises:
        UserError: what is requested does not work here.
    """
    return Kernels(
        attention=choose_attention(config.attention_backend, platform, dtype=dtype, dropout=dropout),
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


def choose_attention(requested: str, platform: Platform, *, dtype: torch.dtype, dropout: float) -> str:
    """Name of the requested kernel, or with "auto" of the first one that works on the platform; logged.

    On a GPU a kernel is tried on a few tokens and compared with the reference before it is used.

    Raises:
        UserError: the requested kernel does not work here.
    """
    if requested != AUTO:
        obstacle = _obstacle(requested, platform, dtype=dtype, dropout=dropout)
        if obstacle is not None:
            raise UserError(
                f"--attention-backend {requested}: {obstacle}; leave the flag out to let one be chosen"
            )
        info(f"attention: {requested}, because --attention-backend asks for it")
        return requested
    passed_over: list[str] = []
    for name in platform.attention_backends:
        obstacle = _obstacle(name, platform, dtype=dtype, dropout=dropout)
        if obstacle is None:
            reason = "; ".join(passed_over) or f"it is the first choice on {platform.name}"
            info(f"attention: {name}, because {reason}")
            return name
        passed_over.append(f"{name}: {obstacle}")
    raise UserError(f"no attention kernel works here: {'; '.join(passed_over)}")


def _obstacle(name: str, platform: Platform, *, dtype: torch.dtype, dropout: float) -> str | None:
    """Why a kernel cannot be used here; None if it can."""
    if name not in (*platform.attention_backends, "reference"):
        return f"it does not run on {platform.name}"
    if name in _LOW_PRECISION_ONLY and dtype == torch.float32:
        return "it needs --bf16"
    if dropout and name not in _WITH_DROPOUT:
        return "it has no --attention-dropout"
    missing = _missing(name)
    if missing is not None:
        return missing
    if platform.is_tested:
        return None
    try:
        difference = difference_from_reference(ATTENTION_KERNELS[name], platform.device, dtype)
    except Exception as error:  # a kernel for another GPU, a compiler that is missing: any kind
        return f"it fails here ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    if not difference < _TOLERANCES[dtype]:
        return f"it differs from the reference by {difference:.1e} here"
    return None


def _missing(name: str) -> str | None:
    if name == "flash" and importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
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
    expected = _output_and_gradients(ReferenceAttention, [tensor.double() for tensor in inputs], pieces)
    found = _output_and_gradients(make_kernel, [tensor.to(device) for tensor in inputs], pieces)
    return max(
        float((one.double().cpu() - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )


def _output_and_gradients(
    make_kernel: MakeKernel, inputs: Sequence[torch.Tensor], pieces: Sequence[Piece]
) -> list[torch.Tensor]:
    *states, output_gradient = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in states]
    kernel = make_kernel(pieces, leaves[0].device, leaves[0].dtype)
    output = kernel(*leaves, scale=leaves[0].shape[-1] ** -0.5, dropout=0.0)
    return [output.detach(), *torch.autograd.grad(output, leaves, output_gradient)]
