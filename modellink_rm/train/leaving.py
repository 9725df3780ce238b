"""Leaving a run before its end: on a signal, after some minutes, or after some steps."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

import torch

from modellink_rm.config.training import TrainingConfig

# sysexits.h's EX_TEMPFAIL: nothing is wrong, start again to go on.
EXIT_CODE = 75
_DURATION = 1  # beside the numbers of signals


class Leaving:
    """Whether the processes of a run are to save and leave, on which they agree after every step.

    A wish of any process counts: a signal may reach one alone, and clocks differ. Each step starts a sum over
    gloo, of numbers in the host's memory, whose result is read after the next step: no process waits, neither
    for the device nor for another one. All processes agree on the step.

    Within, SIGUSR1 is a wish, and with --exit-signal-handler SIGTERM too.

    Args:
        started: when the command began, by `time.monotonic`, from where --exit-duration-in-mins counts.
    """

    def __init__(self, config: TrainingConfig, *, world_size: int, started: float) -> None:
        self._config = config
        self._signals = (signal.SIGUSR1, *((signal.SIGTERM,) if config.exit_signal_handler else ()))
        self._before: dict[signal.Signals, Any] = {}
        self._started = started
        self._wish = 0
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None
        self._pending: tuple[torch.Tensor, Any] | None = None

    def __enter__(self) -> "Leaving":
        if threading.current_thread() is threading.main_thread():  # python refuses it in others
            self._before = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None:
            self._agreed()  # nothing may be under way when the groups end

    def after_step(self, iteration: int) -> str | None:
        """Why the run must stop now, equal on every process; None if it continues."""
        minutes = self._config.exit_duration_in_mins
        if minutes is not None and time.monotonic() - self._started >= 60 * minutes:
            self._wish = self._wish or _DURATION
        wish = self._agreed() if self._group is not None else self._wish
        if self._group is not None:
            wishes = torch.tensor([self._wish], dtype=torch.int32)
            work = torch.distributed.all_reduce(
                wishes, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
            self._pending = wishes, work
        if wish:
            return f"{minutes} minutes" if wish == _DURATION else signal.Signals(wish).name
        interval = self._config.exit_interval
        return f"--exit-interval {interval}" if interval and iteration % interval == 0 else None

    def _agreed(self) -> int:
        """The agreed result of the requests after the previous step."""
        if self._pending is None:
            return 0
        wishes, work = self._pending
        self._pending = None
        work.wait()
        return int(wishes)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._wish = number
