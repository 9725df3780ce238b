"""Traces of a few steps with torch's profiler."""

from pathlib import Path
from typing import Any

from torch.profiler import profile, supported_activities

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import info, warn_once
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.config.run import RunConfig


class StepTrace:
    """Traces the steps after --profile-step-start up to --profile-step-end, on the chosen ranks.

    Args:
        directory: where `profile/rankN.pt.trace.json` is written.
    """

    def __init__(self, config: ReportingConfig, directory: Path | None, rank: int) -> None:
        self._is_wanted = config.profile and rank in config.profile_ranks
        self._steps = range(config.profile_step_start, config.profile_step_end)
        self._directory = directory
        self._rank = rank
        self._profiler: profile | None = None

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(self, *error: object) -> None:
        self._finish()

    def before_step(self, iteration: int) -> None:
        """Start the trace if the step after `iteration` steps is the first one to trace."""
        if self._is_wanted and self._profiler is None and iteration in self._steps:
            self._profiler = profile(activities=_activities(), record_shapes=True)
            self._profiler.start()

    def after_step(self, iteration: int) -> None:
        """Write the trace if step `iteration` was the last one to trace."""
        if iteration >= self._steps.stop:
            self._finish()

    def _finish(self) -> None:
        if self._profiler is None:
            return
        assert self._directory is not None, "plan_run asks for a directory with --profile"
        self._is_wanted = False
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        path = self._directory / "profile" / f"rank{self._rank}.pt.trace.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
        info(f"profile: {path}, which chrome://tracing and ui.perfetto.dev open")


def check_profile(config: RunConfig, *, train_iters: int, world_size: int, done: int = 0) -> None:
    """Check that --profile has a directory to write to, and ranks and steps to trace.

    Args:
        done: steps of the run that is continued; one that is beyond all that are to be traced is told.

    Raises:
        UserError: one of them is missing.
    """
    reporting = config.reporting
    if not reporting.profile:
        return
    if reporting.tensorboard_dir is None and config.checkpoint.save is None:
        raise UserError("--profile needs --tensorboard-dir or --save, to write its traces there")
    for rank in reporting.profile_ranks:
        if not 0 <= rank < world_size:
            raise UserError(f"--profile-ranks {rank} is not one of the run's {world_size} processes")
    if reporting.profile_step_start >= train_iters:
        raise UserError(
            f"--profile-step-start {reporting.profile_step_start} is not before the last of {train_iters} "
            "steps"
        )
    if done >= reporting.profile_step_end:
        warn_once(
            f"--profile traces nothing: the run goes on after step {done}, and the last step to trace is "
            f"--profile-step-end {reporting.profile_step_end}"
        )


def trace_directory(tensorboard_dir: str | None, save: str | None) -> Path | None:
    """Where traces go: --tensorboard-dir, else --save."""
    directory = tensorboard_dir or save
    return Path(directory) if directory is not None else None


def _activities() -> Any:
    return supported_activities()  # type: ignore[no-untyped-call]
