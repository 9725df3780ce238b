"""Flags for logging and profiling."""

from dataclasses import dataclass

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import check_minimums, flag


@dataclass(frozen=True, kw_only=True)
class ReportingConfig:
    """Reporting."""

    log_interval: int = flag(1, minimum=1, help="steps between log lines")
    tensorboard_dir: str | None = flag(None, help="directory for TensorBoard events", metavar="DIR")
    wandb_project: str | None = flag(
        None, help="project of Weights & Biases that gets the metrics", metavar="NAME"
    )
    wandb_exp_name: str | None = flag(
        None,
        level="rare",
        help="with --wandb-project: the run's name; by default that of --save",
        metavar="NAME",
    )
    wandb_mode: str = flag(
        "online",
        level="rare",
        help="with --wandb-project: offline writes to --save, for `wandb sync`",
        choices=("online", "offline"),
    )
    swanlab_project: str | None = flag(None, help="project of SwanLab that gets the metrics", metavar="NAME")
    swanlab_mode: str = flag(
        "cloud",
        level="rare",
        help="with --swanlab-project: offline writes to --save, for `swanlab sync`",
        choices=("cloud", "offline"),
    )
    profile: bool = flag(
        False,
        level="rare",
        help="write torch profiler traces under --tensorboard-dir, or under --save without it",
    )
    profile_step_start: int = flag(
        10, level="rare", help="with --profile: number of steps before the trace begins"
    )
    profile_step_end: int = flag(12, level="rare", help="with --profile: last step of the trace")
    profile_ranks: tuple[int, ...] = flag((0,), level="rare", help="with --profile: ranks to trace")

    def __post_init__(self) -> None:
        check_minimums(self)
        if not 0 <= self.profile_step_start < self.profile_step_end:
            raise UserError(
                f"--profile-step-start {self.profile_step_start} must be at least 0 and below "
                f"--profile-step-end {self.profile_step_end}"
            )
