"""Flags of how the same numbers are computed."""

from dataclasses import dataclass

from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    """Kernels.

    None of them changes what is learned, up to rounding.
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
        help="compile norm, rotation and gate into a kernel each; auto: where the run is long enough",
        choices=("auto", "always", "never"),
    )
