"""Programs that show a run's metrics while it goes on: TensorBoard, Weights & Biases, SwanLab."""

import functools
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modellink_rm.base.errors import UserError
from modellink_rm.base.files import naming
from modellink_rm.base.log import warn_once
from modellink_rm.config.reporting import ReportingConfig

Values = Mapping[str, float]


class Tracker(Protocol):
    """Gets the rows of a run."""

    def add(self, values: Values, iteration: int) -> None:
        """Take in scalars, each by the name that the program shows: train/loss, valid/loss."""

    def histogram(self, name: str, values: NDArray[np.float32], iteration: int) -> None:
        """Take in the distribution of at least one value."""

    def close(self) -> None:
        """Write what is buffered."""


class TensorBoard:
    """Events for TensorBoard."""

    def __init__(self, directory: str, *, resumed_iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _silence_writers()
        self._directory = directory
        purged = resumed_iteration + 1 if resumed_iteration else 0
        with naming(directory):
            self._writer = SummaryWriter(directory, purge_step=purged)

    def add(self, values: Values, iteration: int) -> None:
        """Write scalars."""
        with naming(self._directory):
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)

    def histogram(self, name: str, values: NDArray[np.float32], iteration: int) -> None:
        """Write a histogram of the finite values."""
        with naming(self._directory):
            self._writer.add_histogram(name, values[np.isfinite(values)], iteration)

    def close(self) -> None:
        """Write buffered events."""
        with naming(self._directory):
            self._writer.close()


@functools.cache
def _silence_writers() -> None:
    """Print no traceback where a thread that writes events fails: the next event raises the same error."""
    tell = threading.excepthook

    def tell_of_others(failure: threading.ExceptHookArgs) -> None:
        if not type(failure.thread).__module__.startswith("tensorboard."):
            tell(failure)

    threading.excepthook = tell_of_others


class WeightsAndBiases:
    """A run of Weights & Biases; one that is resumed is a further run of the same name."""

    def __init__(self, config: ReportingConfig, *, directory: Path, name: str, flags: Any) -> None:
        import wandb

        self._wandb = wandb
        with _first_line_of_errors("--wandb-project", config.wandb_project):
            self._run = wandb.init(
                project=config.wandb_project,
                name=config.wandb_exp_name or name,
                mode=config.wandb_mode,
                dir=str(directory),
                config=flags,
                settings=wandb.Settings(console="off"),  # what is printed stays this package's
            )

    def add(self, values: Values, iteration: int) -> None:
        """Log scalars."""
        self._run.log(dict(values), step=iteration)

    def histogram(self, name: str, values: NDArray[np.float32], iteration: int) -> None:
        """Log a histogram of the finite values."""
        self._run.log({name: self._wandb.Histogram(values[np.isfinite(values)])}, step=iteration)

    def close(self) -> None:
        """Send, or write, what is left."""
        self._run.finish()


class SwanLab:
    """A run of SwanLab, which has no histograms."""

    def __init__(self, config: ReportingConfig, *, directory: Path, name: str, flags: Any) -> None:
        import swanlab

        self._swanlab = swanlab
        with _first_line_of_errors("--swanlab-project", config.swanlab_project):
            swanlab.init(
                project=config.swanlab_project,
                experiment_name=name,
                mode=config.swanlab_mode,
                logdir=str(directory / "swanlab"),
                config=flags,
            )

    def add(self, values: Values, iteration: int) -> None:
        """Log scalars."""
        self._swanlab.log(dict(values), step=iteration)

    def histogram(self, name: str, values: NDArray[np.float32], iteration: int) -> None:
        """Nothing."""

    def close(self) -> None:
        """Send, or write, what is left."""
        self._swanlab.finish()


class OfOthers:
    """A program whose failure ends its rows and not the run, which has them in metrics.jsonl too.

    Weights & Biases raises BrokenPipeError, for one, where its own process was killed; TensorBoard OSError,
    where its directory was removed or its disk is full.
    """

    def __init__(self, tracker: Tracker, *, flag: str) -> None:
        self._tracker: Tracker | None = tracker
        self._flag = flag

    def add(self, values: Values, iteration: int) -> None:
        """Hand on scalars."""
        self._try(lambda tracker: tracker.add(values, iteration))

    def histogram(self, name: str, values: NDArray[np.float32], iteration: int) -> None:
        """Hand on a distribution."""
        self._try(lambda tracker: tracker.histogram(name, values, iteration))

    def close(self) -> None:
        """Close the program, unless it has failed."""
        self._try(lambda tracker: tracker.close())

    def _try(self, act: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            act(self._tracker)
        except Exception as error:  # of many classes of its own
            self._tracker = None
            warn_once(f"{self._flag} has failed, and gets no further rows of this run: {_first_line(error)}")


def check_trackers(config: ReportingConfig) -> None:
    """The packages of the chosen programs are installed.

    Raises:
        UserError: one is not.
    """
    for flag, project, package in (
        ("--wandb-project", config.wandb_project, "wandb"),
        ("--swanlab-project", config.swanlab_project, "swanlab"),
    ):
        if project is not None and find_spec(package) is None:
            raise UserError(
                f"{flag} needs the package {package}, which is not installed: "
                f"pip install 'modellink-rm[{package}]'"
            )


def open_trackers(
    config: ReportingConfig, *, directory: Path | None, resumed_iteration: int, flags: Any
) -> list[Tracker]:
    """The programs that the flags choose.

    Args:
        directory: --save; the working directory is used without it.
        resumed_iteration: later events, of a run that was killed, are hidden.
        flags: of the run, as the programs show them.

    Raises:
        UserError: a program cannot start, for want of a key say.
    """
    place = directory or Path()
    name = place.resolve().name
    trackers: list[Tracker] = []
    if config.tensorboard_dir is not None:
        events = TensorBoard(config.tensorboard_dir, resumed_iteration=resumed_iteration)
        trackers.append(OfOthers(events, flag="--tensorboard-dir"))
    if config.wandb_project is not None:
        wandb = WeightsAndBiases(config, directory=place, name=name, flags=flags)
        trackers.append(OfOthers(wandb, flag="--wandb-project"))
    if config.swanlab_project is not None:
        swanlab = SwanLab(config, directory=place, name=name, flags=flags)
        trackers.append(OfOthers(swanlab, flag="--swanlab-project"))
    return trackers


@contextmanager
def _first_line_of_errors(flag: str, project: str | None) -> Any:
    """Report what a program raises as a line of the user's: a missing key, no network, a wrong name."""
    try:
        yield
    except Exception as error:  # of many classes of its own
        raise UserError(f"{flag} {project}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
