"""The kernels of a run on this machine, by the trainer's own choice."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modellink_rm.base.platform import Platform, is_cpu
from modellink_rm.doctor.findings import Problem
from modellink_rm.model.kernel_choice import (
    AttentionNeeds,
    attention_kernels,
    attention_obstacle,
    compiler_obstacle,
)

HEAD_DIM, HEADS_PER_GROUP, NUM_GROUPS, HIDDEN_SIZE = 128, 4, 8, 4096  # of Llama 3 8B
_SLOW_ON_A_GPU = ("sdpa", "reference")


@dataclass(frozen=True, kw_only=True)
class KernelChoice:
    """The attention kernel of a dtype.

    Attributes:
        chosen: its name; None if none works.
        passed_over: why each of the others cannot be used, or that it is a later choice.
    """

    dtype: str
    chosen: str | None
    passed_over: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class KernelReport:
    """The kernels of runs in bfloat16 and in float32.

    Attributes:
        compiler_obstacle: why norm, rotation and gate cannot be compiled; None if they can.
    """

    attention: tuple[KernelChoice, ...]
    compiler_obstacle: str | None


def examine_kernels(platform: Platform) -> KernelReport:
    """Try every kernel with heads of Llama 3 8B, and the compiler with a norm of its size."""
    missing = platform.missing_compiler()
    return KernelReport(
        attention=tuple(_choice(platform, dtype) for dtype in (torch.bfloat16, torch.float32)),
        compiler_obstacle=missing
        or compiler_obstacle(platform.device, torch.bfloat16, hidden_size=HIDDEN_SIZE),
    )


def _choice(platform: Platform, dtype: torch.dtype) -> KernelChoice:
    needs = AttentionNeeds(
        dtype=dtype,
        head_dim=HEAD_DIM,
        heads_per_group=HEADS_PER_GROUP,
        num_groups=NUM_GROUPS,
        dropout=0.0,
        softcap=None,
        has_windows=False,
        has_sinks=False,
        deterministic=False,
    )
    obstacles = {name: attention_obstacle(name, platform, needs) for name in attention_kernels(platform)}
    chosen = next((name for name, obstacle in obstacles.items() if obstacle is None), None)
    return KernelChoice(
        dtype=str(dtype).removeprefix("torch."),
        chosen=chosen,
        passed_over={
            name: obstacle or "it works, and is a later choice"
            for name, obstacle in obstacles.items()
            if name != chosen
        },
    )


def kernel_problems(kernels: KernelReport, platform: Platform) -> Iterator[Problem]:
    """What makes runs on a GPU slow, or stops them."""
    if kernels.compiler_obstacle is not None:
        needed = (
            "a C++ compiler (g++)" if is_cpu(platform.device) else "triton, a C compiler and Python's headers"
        )
        is_missing = platform.missing_compiler() is not None
        yield Problem(
            what=f"norm, rotation and gate cannot be compiled: {kernels.compiler_obstacle}",
            remedy=f"{f'install {needed}' if is_missing else 'mend that'}; runs work without, more slowly",
        )
    for choice in kernels.attention:
        if choice.chosen is None:
            yield Problem(what=f"no attention kernel works in {choice.dtype}", remedy="see the reasons above")
        elif choice.dtype == "bfloat16" and choice.chosen in _SLOW_ON_A_GPU and not is_cpu(platform.device):
            yield Problem(
                what=f"attention in bfloat16 is {choice.chosen}, the slowest kernel that works here",
                remedy="pip install flash-attn, or a torch of 2.10 or newer with its own flash attention",
            )
