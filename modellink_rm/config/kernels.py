"""Flags that choose kernels: how fast the same numbers are computed."""

from dataclasses import dataclass

from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Kernels.

    They change the numbers by rounding only.
    """

    attention_backend: str = flag(
        "auto",
        level="rare",
        help="attention kernel; auto takes the fastest that is installed and works, and logs why",
        choices=("auto", "reference", "sdpa", "flex", "varlen", "flash"),
    )
    compile: str = flag(
        "auto",
        level="rare",
        help="compile norm, rotation and gate into a kernel each; auto: on a GPU, and on a CPU where the run "
        "is long enough",
        choices=("auto", "always", "never"),
    )
    deterministic: bool = flag(
        False,
        level="rare",
        help="on a GPU, only kernels that give the same bits in every run, so that a resumed run equals one "
        "that was never left; slower",
    )
