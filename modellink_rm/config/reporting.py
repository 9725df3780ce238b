"""Flags of what a run tells."""

from dataclasses import dataclass

from modellink_rm.errors import UserError
from modellink_rm.flags import flag


@dataclass(frozen=True, kw_only=True)
class ReportingConfig:
    """Reporting."""

    log_interval: int = flag(1, help="steps between log lines")
    tensorboard_dir: str | None = flag(None, help="directory for TensorBoard events")

    def __post_init__(self) -> None:
        if self.log_interval < 1:
            raise UserError(f"--log-interval must be at least 1, got {self.log_interval}")
