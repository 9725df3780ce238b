"""Flags of `python -m modellink_rm average`, beside those of parallelism."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import flag


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Averaging."""

    load: tuple[str, ...] = flag(help="checkpoints of this tool, of one shape and base", metavar="CHECKPOINT")
    output: str = flag(
        help="directory to make, as of --save: the checkpoint is its iter_0000000", metavar="DIR"
    )
    weights: tuple[float, ...] = flag((), help="a weight for each checkpoint; by default all weigh the same")
    verify_checksums: bool = flag(
        True, level="rare", help="take checkpoints as they are read, without comparing them with checksums"
    )

    def __post_init__(self) -> None:
        if len(self.load) < 2:
            raise UserError(f"average takes two checkpoints or more, got {' '.join(self.load)}")
        if self.weights and len(self.weights) != len(self.load):
            raise UserError(
                f"--weights takes one for each of the {len(self.load)} checkpoints, got {len(self.weights)}"
            )
        if self.weights and not min(self.weights) > 0:
            raise UserError(f"--weights must be above 0, got {min(self.weights)}")
        if not min(self.shares) > 0:
            raise UserError(f"--weights must have a share of their sum above 0, got {self.weights}")

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each checkpoint, adding up to 1."""
        weights = self.weights or (1.0,) * len(self.load)
        return tuple(weight / sum(weights) for weight in weights)
