"""`make gpu-check` without a GPU: its parts at tiny sizes on the CPU, time limits, report and exit codes."""

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check import numerics
from benchmarks.gpu_check.parts import Outcome, Part, Setting, run_here, run_part
from modellink_rm.base.errors import UserError


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(device="cpu", is_tiny=True, work=tmp_path)


def outcome(name: str, status: str) -> Outcome:
    return Outcome(name=name, status=status, seconds=1.0, summary="as found", rows=[])


def test_without_a_gpu_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modellink_rm.base.platform.num_gpus", lambda: 0)
    monkeypatch.setattr("modellink_rm.base.platform.why_no_gpu", lambda: None)
    with pytest.raises(UserError, match="gpu-check needs a GPU, and this machine shows none"):
        gpu_check.main([])
    monkeypatch.setattr("modellink_rm.base.platform.why_no_gpu", lambda: "the driver is too old")
    with pytest.raises(UserError, match="the driver is too old"):
        gpu_check.main([])


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("skipped", 0), ("failed", 1)])
def test_the_report_is_written_after_each_part_and_the_exit_code_tells(
    status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, lengths = tmp_path / "report.json", []

    def run(part: Part, setting: Setting) -> Outcome:
        lengths.append(len(json.loads(output.read_text())["parts"]) if output.exists() else 0)
        return outcome(part.name, status if part.name == "losses" else "passed")

    monkeypatch.setattr(gpu_check, "run_part", run)
    words = ["--device", "cpu", "--tiny", "--only", "kernels", "losses", "speed", "--output", str(output)]
    assert gpu_check.main(words) == code
    assert lengths == [0, 1, 2]
    report = json.loads(output.read_text())
    assert report["passed"] == (code == 0)
    assert [part["status"] for part in report["parts"]] == ["passed", status, "passed"]


def test_a_part_is_ended_at_its_time_limit_and_says_so(setting: Setting) -> None:
    found = run_part(Part(name="losses", module="numerics", seconds=0.2), setting)
    assert (found.status, found.summary) == ("failed", "not done within 0 s")
    assert found.seconds < 10


def test_a_part_that_crashes_leaves_its_last_words(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    program = setting.work / "crashes"
    program.write_text("#!/bin/sh\necho out of memory\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = run_part(Part(name="losses", module="numerics", seconds=60), setting)
    assert found.status == "failed"
    assert found.summary == "exit code 3: out of memory"
    assert found.log == "out of memory"


def test_a_part_without_what_it_needs_is_left_out(setting: Setting) -> None:
    run_here(gpu_check.PARTS["trl"], setting)
    found = json.loads((setting.work / "trl.json").read_text())
    assert found["status"] == "skipped"
    assert "--reference" in found["summary"]


def test_every_part_has_its_function_and_the_whole_fits_into_forty_minutes() -> None:
    for part in gpu_check.PARTS.values():
        module = __import__(f"benchmarks.gpu_check.{part.module}", fromlist=[part.name])
        assert callable(getattr(module, part.name))
    assert sum(part.seconds for part in gpu_check.PARTS.values()) <= 40 * 60


def test_the_settings_reach_the_process_of_a_part(setting: Setting) -> None:
    assert Setting.from_json(setting.to_json()) == setting


def test_kernels_are_compared_with_the_reference(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modellink_rm.base.cuda_on_cpu.redirect_cuda_to_cpu", lambda: None)
    found = numerics.kernels(setting)
    assert found.passed
    assert found.summary == "of 4 cases right: sdpa 4, reference 4; wrong: 0"
    assert {row["layout"] for row in found.rows} == {"packed", "one query"}


def test_losses_of_two_runs_are_compared_step_by_step() -> None:
    assert numerics.largest_difference([1.0, 2.0], [1.0, 2.5]) == 0.5
    assert numerics.largest_difference([1.0], [1.0, 2.0]) == math.inf
    assert numerics.largest_difference([math.nan], [1.0]) == math.inf
    assert len(numerics.golden_losses()) == 8


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["machine", "losses", "speed", "profile", "weight_gradients", "lengths", "checkpoint"]
)
def test_a_part_passes_on_the_cpu_at_tiny_sizes(name: str, setting: Setting) -> None:
    part = gpu_check.PARTS[name]
    found = run_part(Part(name=name, module=part.module, seconds=130), setting)
    assert found.status == "passed", f"{found.summary}\n{found.log}"
    assert found.rows
