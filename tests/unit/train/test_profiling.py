"""Traces hold the steps that were asked for, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch.profiler import record_function

from modellink_rm.commands.train import run_config
from modellink_rm.config.reporting import ReportingConfig
from modellink_rm.train.profiling import StepTrace, check_profile


def traced_steps(directory: Path, config: ReportingConfig, *, first: int = 1, last: int = 5) -> set[str]:
    """The steps in the trace of rank 0 of a run that takes the steps from `first` to `last`."""
    with StepTrace(config, directory, rank=0) as trace:
        for step in range(first, last + 1):
            trace.before_step(step - 1)
            with record_function(f"step {step}"):
                pass
            trace.after_step(step)
    path = directory / "profile" / "rank0.pt.trace.json"
    if not path.exists():
        return set()
    events = json.loads(path.read_text())["traceEvents"]
    return {name for event in events if (name := event.get("name", "")).startswith("step ")}


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 1, {"step 1"}),
        (1, 3, {"step 2", "step 3"}),
        (4, 5, {"step 5"}),
        (3, 9, {"step 4", "step 5"}),  # a run that ends before the last step to trace
    ],
)
def test_trace_holds_the_steps_after_start_up_to_end(
    start: int, end: int, expected: set[str], tmp_path: Path
) -> None:
    config = ReportingConfig(profile=True, profile_step_start=start, profile_step_end=end)
    assert traced_steps(tmp_path, config) == expected


def test_run_resumed_among_the_steps_traces_the_rest(tmp_path: Path) -> None:
    config = ReportingConfig(profile=True, profile_step_start=1, profile_step_end=4)
    assert traced_steps(tmp_path, config, first=3) == {"step 3", "step 4"}


def test_run_resumed_after_the_steps_traces_nothing(tmp_path: Path) -> None:
    config = ReportingConfig(profile=True, profile_step_start=0, profile_step_end=2)
    assert traced_steps(tmp_path, config, first=3) == set()


def test_run_resumed_after_the_steps_says_that_nothing_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.train.profiling.warn_once", messages.append)
    words = f"--stage rm --is-pairwise-dataset --data-path data --train-iters 50 --profile --save {tmp_path}"
    for done in (0, 11, 12):
        check_profile(run_config(words.split()), train_iters=50, world_size=1, done=done)
    assert messages == [
        "--profile traces nothing: the run goes on after step 12, and the last step to trace is "
        "--profile-step-end 12"
    ]


def test_other_ranks_and_runs_without_the_flag_trace_nothing(tmp_path: Path) -> None:
    traced = ReportingConfig(profile=True, profile_step_start=0, profile_step_end=2)
    for config in (replace(traced, profile=False), replace(traced, profile_ranks=(1,))):
        assert traced_steps(tmp_path, config) == set()
    assert traced_steps(tmp_path, traced) == {"step 1", "step 2"}
